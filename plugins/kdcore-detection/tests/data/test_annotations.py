"""Boxes are cut to their picture; what cannot be used is said."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from kdcore.data.bad import BadSampleError
from kdcore.errors import RunError

from kdcore_detection.data.annotations import Annotated, Listing, annotated, checked, collected, held_out, size_of


def sample(*boxes: list[float], name: str = "a") -> Annotated:
    """A picture of 40x60."""
    return annotated(Path(f"{name}.png"), (40, 60), boxes, [0] * len(boxes), f"{name}.xml")


def listing(*samples: Annotated, **others: list[str]) -> Listing:
    return Listing(samples, list(range(len(samples))), **others)


def test_a_box_is_cut_to_its_picture_and_said():
    found, notes = checked(listing(sample([-5.0, -2.0, 70.0, 20.0])), "train", skip=False)
    assert found.samples[0].boxes.tolist() == [[0, 0, 60, 20]]
    assert notes == [
        "1 boxes of the split `train` were cut to their picture: a.xml: box 1 of 1 [-5, -2, 70, 20] of a picture of "
        "40x60"
    ]


def test_up_to_a_pixel_is_cut_without_a_word():
    found, notes = checked(listing(sample([-1.0, 0.0, 60.9, 41.0])), "train", skip=False)
    assert found.samples[0].boxes.tolist() == [[0, 0, 60, 40]]
    assert notes == []


@pytest.mark.parametrize(
    ("box", "reason"),
    [
        ([10, 5, 10, 20], "has no area"),
        ([10, 5, 20, 5], "has no area"),
        ([20, 5, 10, 20], "has no area"),
        ([60, 5, 80, 20], "lies outside"),
        ([5, -9, 20, 0], "lies outside"),
        ([float("nan"), 5, 20, 20], "is not made of numbers"),
        ([0, 5, float("inf"), 20], "is not made of numbers"),
    ],
)
def test_a_box_that_cannot_be_used(box: list[float], reason: str):
    samples = listing(sample([1.0, 1.0, 9.0, 9.0], box))
    with pytest.raises(RunError) as error:
        checked(samples, "train", skip=False)
    corners = ", ".join(f"{value:g}" for value in box)
    said = f"a.xml: box 2 of 2 [{corners}] of a picture of 40x60 {reason}"
    assert str(error.value) == f"{said}. Mend it, or set `bad: skip` to go without"
    found, notes = checked(samples, "train", skip=True)
    assert found.samples[0].boxes.tolist() == [[1, 1, 9, 9]]
    assert notes == [f"1 boxes of the split `train` were left out: {said}. What they show counts as background"]


def test_labels_and_ignored_follow_their_boxes():
    mixed = annotated(Path("a"), (40, 60), [[9, 9, 9, 9], [1, 1, 9, 9]], [4, 7], "a", [False, True])
    found, _ = checked(listing(mixed), "test", skip=True)
    assert (found.samples[0].labels.tolist(), found.samples[0].ignore.tolist()) == ([7], [True])


def test_many_boxes_are_counted_and_three_named():
    empty = [[k, 5.0, k, 6.0] for k in range(5)]
    _, notes = checked(listing(sample([0.0, 0.0, 9.0, 9.0], *empty)), "val", skip=True)
    assert notes[0].startswith("5 boxes of the split `val` were left out: a.xml: box 2 of 6")
    assert notes[0].count("has no area") == 3
    assert notes[0].endswith("(and 2 more). What they show counts as background")


def test_pictures_without_boxes_are_kept_and_counted():
    found, notes = checked(listing(sample([1.0, 1.0, 9.0, 9.0]), sample(), sample()), "train", skip=False)
    assert len(found.samples) == 3
    assert notes == ["2 of 3 pictures of the split `train` have no box: they count as background"]


def test_nothing_to_learn():
    with pytest.raises(RunError) as error:
        checked(listing(sample(), sample()), "train", skip=True)
    assert str(error.value) == (
        "none of the 2 pictures of the split `train` has a box to find: there is nothing to learn"
    )


@pytest.mark.parametrize("boxes", [[], [[1.0, 1.0, 9.0, 9.0]]])
def test_nothing_to_validate_with(boxes: list[list[float]]):
    """Average precision would be NaN throughout, and no weights better than those of the first epoch."""
    difficult = annotated(Path("a"), (40, 60), boxes, [0] * len(boxes), "a", [True] * len(boxes))
    with pytest.raises(RunError) as error:
        checked(listing(difficult, sample()), "val", skip=True)
    assert str(error.value) == (
        "none of the 2 pictures of the split `val` has a box to find: average precision has no value"
    )
    checked(listing(difficult, sample([1.0, 1.0, 9.0, 9.0])), "val", skip=True)
    checked(listing(difficult), "test", skip=True)  # which may have no labels


def test_an_empty_split():
    with pytest.raises(RunError, match="the split `val` has no picture"):
        checked(listing(), "val", skip=False)


def test_pictures_that_could_not_be_read():
    wrong = listing(sample([1.0, 1.0, 9.0, 9.0]), wrong=["b.xml: is no XML"], notes=["a remark"])
    with pytest.raises(RunError, match=r"b\.xml: is no XML\. Mend it, or set `bad: skip` to go without"):
        checked(wrong, "train", skip=False)
    assert checked(wrong, "train", skip=True)[1] == [
        "a remark",
        "1 of 2 samples of the split `train` were left out: b.xml: is no XML",
    ]


def test_ids_stay_when_a_picture_cannot_be_read():
    def read(name: str) -> Annotated:
        if name == "b":
            raise BadSampleError("b is bad")
        return sample(name=name)

    found = collected("val", ["a", "b", "c"], read)
    assert list(found.ids) == [(1 << 32), (1 << 32) + 2]
    assert found.wrong == ["b is bad"]
    assert collected("train", ["a"], read).ids == [0]
    assert collected("test", ["a"], read).ids == [2 << 32]


def test_a_share_is_held_out_the_same_each_time():
    everything = listing(*[sample(name=str(k)) for k in range(20)], wrong=["x"], notes=["y"])
    divided = held_out(everything, 0.1, 0.2, Path("f"))
    assert {name: len(one.samples) for name, one in divided.items()} == {"train": 14, "val": 2, "test": 4}
    assert sorted(id for one in divided.values() for id in one.ids) == list(range(20))
    assert [s.where for s in divided["val"].samples] == [f"{id}.xml" for id in divided["val"].ids]
    assert held_out(everything, 0.1, 0.2, Path("f"))["val"].ids == divided["val"].ids
    assert (divided["train"].wrong, divided["val"].wrong) == (["x"], [])  # said once
    assert set(held_out(everything, 0.1, 0.0, Path("f"))) == {"train", "val"}


@pytest.mark.parametrize(("validation", "test"), [(0.0, 0.1), (0.5, 0.5), (0.1, -0.1)])
def test_shares_that_leave_nothing(validation: float, test: float):
    with pytest.raises(ValueError, match=f"validation={validation} and test={test}: give shares of the pictures"):
        held_out(listing(sample(), sample()), validation, test, Path("f"))


def test_too_few_pictures_to_hold_some_out():
    with pytest.raises(RunError, match="f: holds 1 pictures, too few"):
        held_out(listing(sample()), 0.1, 0.0, Path("f"))


def test_the_size_of_a_file_that_is_no_picture(tmp_path: Path):
    (tmp_path / "a.png").write_text("nothing")
    with pytest.raises(BadSampleError, match=r"a\.png: is no picture that can be read"):
        size_of(tmp_path / "a.png")


def test_boxes_are_not_changed_in_place():
    given = np.array([[-5.0, 0.0, 9.0, 9.0]])
    checked(listing(annotated(Path("a"), (40, 60), given, [0], "a")), "train", skip=False)
    assert given[0, 0] == -5
