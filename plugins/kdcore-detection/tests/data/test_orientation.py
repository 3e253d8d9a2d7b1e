"""EXIF's orientation, against Pillow's own way to turn a picture, in each format of files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from kdcore.data.bad import BadSampleError
from PIL import Image, ImageOps

from kdcore_detection.data.annotations import annotated, size_of
from kdcore_detection.data.files import Reader
from kdcore_detection.data.fitting import Fit
from kdcore_detection.data.orientation import orientation_of


def stored(path: Path, orientation: int) -> Path:
    """6x10 as it is stored, no two pixels alike."""
    pixels = np.arange(6 * 10 * 3, dtype=np.uint8).reshape(6, 10, 3)
    exif = Image.Exif()
    exif[274] = orientation
    Image.fromarray(pixels).save(path, exif=exif)
    return path


@pytest.mark.parametrize("ending", ["jpg", "png", "tif", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_is_read_as_it_is_shown(tmp_path: Path, ending: str, orientation: int):
    path = stored(tmp_path / f"a.{ending}", orientation)
    expected = np.array(ImageOps.exif_transpose(Image.open(path)).convert("RGB"))
    size = expected.shape[0], expected.shape[1]
    assert size == ((10, 6) if orientation >= 5 else (6, 10))
    assert size_of(path) == size
    read = Reader([annotated(path, size, [], [], "a.xml")], Fit(size)).picture(0)
    assert np.array_equal(read.permute(1, 2, 0).numpy(), expected)


@pytest.mark.parametrize("value", [0, 9])
def test_an_orientation_that_there_is_not_turns_nothing(tmp_path: Path, value: int):
    path = stored(tmp_path / "a.jpg", value)
    assert size_of(path) == (6, 10)
    with Image.open(path) as picture:
        assert orientation_of(picture) == 1


def test_exif_that_cannot_be_read_turns_nothing(tmp_path: Path):
    Image.new("RGB", (10, 6)).save(tmp_path / "a.png", exif=b"Exif\0\0XX\0*\0\0\0\x08")
    with Image.open(tmp_path / "a.png") as picture, pytest.raises(SyntaxError):
        picture.getexif()
    with Image.open(tmp_path / "a.png") as picture:
        assert orientation_of(picture) == 1
    assert size_of(tmp_path / "a.png") == (6, 10)


def test_the_size_of_a_png_is_read_from_its_header_alone(tmp_path: Path):
    path = stored(tmp_path / "a.png", 6)
    path.write_bytes(path.read_bytes()[:-30])
    assert size_of(path) == (10, 6)
    with pytest.raises(BadSampleError, match=r"a\.png: is damaged"):
        Reader([annotated(path, (10, 6), [], [], "a.xml")], Fit((10, 6))).picture(0)
