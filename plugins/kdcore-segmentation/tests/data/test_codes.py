from __future__ import annotations

import subprocess
import sys

import pytest

from kdcore_segmentation.data.codes import UNKNOWN, VOID, mapped_codes, plain_codes


def test_classes_mean_themselves_and_ignored_values_mean_none():
    codes = plain_codes(3, [7, 255])
    assert codes[:3] == [0, 1, 2]
    assert codes[7] == codes[255] == VOID
    assert {value for value, code in enumerate(codes) if code == UNKNOWN} == set(range(3, 255)) - {7}
    assert len(codes) == 256


def test_all_classes_that_a_byte_has_room_for():
    assert plain_codes(255, [255]) == [*range(255), VOID]


@pytest.mark.parametrize("classes", [-1, 0, 1, 256])
def test_too_few_or_too_many_classes(classes: int):
    with pytest.raises(ValueError, match=f"classes={classes}: give from 2 to 255, because masks are kept as bytes"):
        plain_codes(classes, [])


def test_an_ignored_value_that_is_a_class():
    with pytest.raises(ValueError, match=r"ignore=\[255, 0\]: 0 is one of the classes 0 to 2"):
        plain_codes(3, [255, 0])


@pytest.mark.parametrize("value", [-1, 256])
def test_an_ignored_value_that_no_mask_can_hold(value: int):
    with pytest.raises(ValueError, match=rf"ignore=\[{value}\]: {value} is not in 0 to 255"):
        plain_codes(3, [value])


def test_a_map_of_values():
    codes = mapped_codes({7: 0, 0: VOID, 8: 1})
    assert (codes[7], codes[8], codes[0], codes[1]) == (0, 1, VOID, UNKNOWN)
    assert len(codes) == 256


def test_no_torch_is_needed():
    code = "import sys, kdcore_segmentation.data.codes; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
