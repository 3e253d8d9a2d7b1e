"""Pascal VOC: pixels counted from 1, difficult objects, lists; and BCCD, where it is."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from kdcore.errors import RunError
from pictures import TURNED_BOX, check_upright, picture, turned_picture, voc, voc_object, voc_sample, write

from kdcore_detection.data.voc import PascalVoc


def test_the_lists_are_the_splits(tmp_path: Path):
    data = PascalVoc(path=voc(tmp_path))
    assert data.split_sizes == {"train": 4, "val": 2, "test": 2}
    assert data.class_names == ("cat", "dog")
    assert data.notes == []
    assert data.facts == {"classes": 2, "channels": 3, "image_height": 40, "image_width": 60}


def test_pixels_count_from_one_and_the_last_is_inside(tmp_path: Path):
    sample = PascalVoc(path=voc(tmp_path)).split("train")[0]
    assert sample["boxes"].tolist() == [[10, 0, 30, 20]]
    assert sample["box_labels"].tolist() == [1]


def test_the_whole_picture_is_a_box_without_a_note(tmp_path: Path):
    voc(tmp_path)
    voc_sample(tmp_path, "p000", [voc_object("dog", (1, 1, 60, 40))])
    data = PascalVoc(path=tmp_path)
    assert data.split("train")[0]["boxes"].tolist() == [[0, 0, 60, 40]]
    assert data.notes == []


def test_difficult_objects_are_ignored(tmp_path: Path):
    sample = PascalVoc(path=voc(tmp_path)).split("train")[1]
    assert sample["box_labels"].tolist() == [1, 0]
    assert sample["box_ignore"].tolist() == [False, True]


def test_an_object_drawn_by_a_click_has_no_area(tmp_path: Path):
    voc(tmp_path)
    voc_sample(tmp_path, "p000", [voc_object("dog", (7, 9, 7, 9)), voc_object("dog", (7, 9, 9, 12))])
    with pytest.raises(
        RunError, match=r"p000\.xml: box 1 of 2 \[7, 9, 7, 9\] of a picture of 40x60 has no area\. Mend"
    ):
        PascalVoc(path=tmp_path)
    data = PascalVoc(path=tmp_path, bad="skip")
    assert data.split("train")[0]["boxes"].tolist() == [[6, 8, 9, 12]]
    assert data.notes[0].startswith("1 boxes of the split `train` were left out: ")


def test_names_that_are_given_have_their_order(tmp_path: Path):
    data = PascalVoc(path=voc(tmp_path), class_names=["dog", "bird", "cat"])
    assert data.class_names == ("dog", "bird", "cat")
    assert data.split("train")[1]["box_labels"].tolist() == [0, 2]


def test_an_object_of_no_class(tmp_path: Path):
    with pytest.raises(RunError, match=r"p000\.xml: has a `dog`, which is none of the classes; did you mean `dogs`\?"):
        PascalVoc(path=voc(tmp_path), class_names=["dogs", "cat"], bad="skip")


def test_lists_of_other_names_and_with_a_second_column(tmp_path: Path):
    voc(tmp_path)
    write(tmp_path / "ImageSets" / "Main" / "dog_train.txt", "p001  1\np000 -1\n\n")
    data = PascalVoc(path=tmp_path, lists={"train": "dog_train", "val": "test"})
    assert data.split_sizes == {"train": 2, "val": 2}


def test_names_with_spaces_are_kept(tmp_path: Path):
    voc(tmp_path)
    stems = ["my picture 1", "my picture 2", "my picture"]
    for stem in stems:
        voc_sample(tmp_path, stem, [voc_object("dog", (11, 1, 30, 20))])
    write(tmp_path / "ImageSets" / "Main" / "train.txt", "my picture 1\nmy picture 2\nmy picture -1\np000  0\n")
    data = PascalVoc(path=tmp_path)
    names = [sample.image.stem for sample in data._listings["train"].samples]
    assert names == ["my picture", "my picture 1", "my picture 2", "p000"]


def test_a_missing_name_with_spaces_is_named_whole(tmp_path: Path):
    voc(tmp_path)
    write(tmp_path / "ImageSets" / "Main" / "train.txt", "my picture 7\n")
    with pytest.raises(RunError, match=r"Annotations/my picture 7\.xml: there is no such file"):
        PascalVoc(path=tmp_path)


def test_boxes_are_those_of_the_picture_as_it_is_shown(tmp_path: Path):
    voc(tmp_path)
    left, top, right, bottom = TURNED_BOX
    voc_sample(tmp_path, "p000", [voc_object("dog", (left + 1, top + 1, right, bottom))], 80, 40)
    turned_picture(tmp_path / "JPEGImages" / "p000.jpg")
    check_upright(PascalVoc(path=tmp_path, size=(80, 40)).split("train")[0])


def test_without_a_list_for_the_test_there_is_none(tmp_path: Path):
    voc(tmp_path)
    (tmp_path / "ImageSets" / "Main" / "test.txt").unlink()
    assert PascalVoc(path=tmp_path).split_sizes == {"train": 4, "val": 2}


def test_without_a_list_for_validation_a_share_is_held_out(tmp_path: Path):
    data = PascalVoc(path=voc(tmp_path, train=8), lists={"train": "train"}, validation=0.25, test=0.25)
    assert data.split_sizes == {"train": 4, "val": 2, "test": 2}


def test_pictures_may_have_another_ending(tmp_path: Path):
    voc(tmp_path)
    (tmp_path / "JPEGImages" / "p000.jpg").unlink()
    picture(tmp_path / "JPEGImages" / "p000.png")
    assert len(PascalVoc(path=tmp_path).split("train")) == 4


def test_a_picture_that_is_not_there(tmp_path: Path):
    voc(tmp_path)
    (tmp_path / "JPEGImages" / "p000.jpg").unlink()
    with pytest.raises(RunError, match=r"JPEGImages/p000\.jpg: there is no such file\. Mend it"):
        PascalVoc(path=tmp_path).split("train")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "there is no such file"),
        ("<annotation>", "is no XML that can be read"),
        ("<annotation/>", "does not tell the `size` of its picture"),
        ("<annotation><size><height>x</height></size></annotation>", "`size` has the height `x`, which is no number"),
        (
            "<annotation><size><height>40</height><width>60</width></size><object><name>dog</name></object></annotation>",
            "a `dog` has no `bndbox`",
        ),
        (
            "<annotation><size><height>40</height><width>60</width></size><object><name/></object></annotation>",
            "an object has no `name`",
        ),
    ],
)
def test_a_file_that_cannot_be_used(tmp_path: Path, text: str | None, message: str):
    voc(tmp_path)
    file = tmp_path / "Annotations" / "p000.xml"
    file.unlink()
    if text is not None:
        file.write_text(text)
    with pytest.raises(RunError) as error:
        PascalVoc(path=tmp_path)
    assert str(error.value).startswith(f"{file}: {message}")
    data = PascalVoc(path=tmp_path, bad="skip")
    assert data.split_sizes["train"] == 3
    assert data.class_names == ("cat", "dog")
    assert data.notes[0].startswith(f"1 of 4 samples of the split `train` were left out: {file}: {message}")


def test_a_corner_that_is_no_number(tmp_path: Path):
    voc(tmp_path)
    voc_sample(tmp_path, "p000", [voc_object("dog", (7, "", 9, 12))])
    with pytest.raises(RunError, match=r"p000\.xml: `bndbox` has the ymin ``, which is no number"):
        PascalVoc(path=tmp_path)


def test_a_picture_of_another_size_than_its_file_says(tmp_path: Path):
    voc(tmp_path)
    picture(tmp_path / "JPEGImages" / "p000.jpg", 60, 40)
    with pytest.raises(
        RunError, match=r"p000\.jpg: is 60x40, but .*p000\.xml says 40x60: its boxes would be elsewhere"
    ):
        PascalVoc(path=tmp_path).split("train")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"training": "a"}, "lists: there is no split `training`; write train, val and test"),
        ({"val": "a"}, "lists: name at least the list to `train` on"),
    ],
)
def test_splits_that_there_are_not(tmp_path: Path, given: dict[str, str], message: str):
    with pytest.raises(ValueError, match=message):
        PascalVoc(path=tmp_path, lists=given)


def test_lists_that_cannot_be_used(tmp_path: Path):
    voc(tmp_path)
    (tmp_path / "ImageSets" / "Main" / "val.txt").write_text("\n")
    with pytest.raises(RunError, match=r"val\.txt: is empty"):
        PascalVoc(path=tmp_path)
    (tmp_path / "ImageSets" / "Main" / "val.txt").unlink()
    with pytest.raises(RunError, match=r"val\.txt: there is no such list"):
        PascalVoc(path=tmp_path)


BCCD = Path(os.environ.get("KDCORE_DATA", "-")) / "detection" / "bccd" / "BCCD"


@pytest.mark.skipif(not BCCD.is_dir(), reason="KDCORE_DATA holds no detection/bccd")
def test_bccd_as_it_is():
    given: dict[str, Any] = {"path": BCCD, "size": (48, 64), "keep": "disk"}
    with pytest.raises(RunError, match=r"BloodImage_00343\.xml: box 4 of 12 \[181, 329, 181, 329\].* has no area"):
        PascalVoc(**given)
    data = PascalVoc(**given, bad="skip")
    assert data.class_names == ("Platelets", "RBC", "WBC")
    assert {name: len(listing.samples) for name, listing in data._listings.items()} == {
        "train": 205, "val": 87, "test": 72,
    }  # fmt: skip
    labels = [label for listing in data._listings.values() for s in listing.samples for label in s.labels.tolist()]
    assert [labels.count(k) for k in range(3)] == [361, 4155 - 2, 372]
    assert [note[:40] for note in data.notes] == [
        f"1 boxes of the split `{name}` were left out"[:40] for name in ("train", "val")
    ]
