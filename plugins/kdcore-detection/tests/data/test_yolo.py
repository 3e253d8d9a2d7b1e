"""YOLO's text files: shares of the picture, labels beside the pictures, a data.yaml that is only read."""

from __future__ import annotations

from pathlib import Path

import pytest
from kdcore.errors import RunError
from pictures import TURNED_BOX, check_upright, picture, turned_picture, write

from kdcore_detection.data.yolo import Yolo, labels_of

HALF = "1 0.25 0.5 0.5 1\n"
"""The left half is of class 1."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two pictures of 40x60 to train on, one for validation."""
    for split, names in (("train", "ab"), ("val", "c")):
        for name in names:
            picture(tmp_path / "images" / split / f"{name}.png")
            write(tmp_path / "labels" / split / f"{name}.txt", HALF)
    write(tmp_path / "data.yaml", "names: [dog, cat]\ntrain: images/train\nval: images/val\n")
    return tmp_path


def test_shares_become_pixels(folder: Path):
    data = Yolo(path=folder)
    sample = data.split("train")[0]
    assert sample["boxes"].tolist() == [[0, 0, 30, 40]]
    assert sample["box_labels"].tolist() == [1]
    assert data.class_names == ("dog", "cat")
    assert data.split_sizes == {"train": 2, "val": 1}
    assert data.notes == []


def test_the_file_itself_may_be_named(folder: Path):
    (folder / "data.yaml").rename(folder / "mine.yaml")
    assert Yolo(path=folder / "mine.yaml").split_sizes == {"train": 2, "val": 1}


@pytest.mark.parametrize("names", ["{0: dog, 1: cat}", "{'1': cat, '0': dog}"])
def test_names_as_a_mapping(folder: Path, names: str):
    write(folder / "data.yaml", f"names: {names}\nnc: 2\ntrain: images/train\nval: images/val\n")
    assert Yolo(path=folder).class_names == ("dog", "cat")


def test_a_picture_without_labels_counts_as_background(folder: Path):
    (folder / "labels" / "train" / "b.txt").unlink()
    picture(folder / "images" / "val" / "d.png")
    write(folder / "labels" / "val" / "d.txt", "\n")
    data = Yolo(path=folder)
    assert len(data.split("train")[1]["boxes"]) == 0
    assert data.notes == [
        "1 of 2 pictures of the split `train` have no box: they count as background",
        "1 of 2 pictures of the split `val` have no box: they count as background",
    ]


def test_labels_are_shares_of_the_picture_as_it_is_shown(folder: Path):
    (folder / "images" / "train" / "a.png").unlink()
    turned_picture(folder / "images" / "train" / "a.jpg")
    left, top, right, bottom = TURNED_BOX
    shares = ((left + right) / 2 / 40, (top + bottom) / 2 / 80, (right - left) / 40, (bottom - top) / 80)
    write(folder / "labels" / "train" / "a.txt", f"1 {' '.join(map(str, shares))}")
    check_upright(Yolo(path=folder, size=(80, 40)).split("train")[0])


def test_a_path_that_the_file_gives_itself(folder: Path, tmp_path_factory: pytest.TempPathFactory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    write(elsewhere / "data.yaml", f"path: {folder}\nnames: [dog, cat]\ntrain: images/train\nval: images/val\n")
    assert Yolo(path=elsewhere).split_sizes == {"train": 2, "val": 1}


def test_exports_that_begin_one_folder_up(folder: Path):
    write(folder / "data.yaml", "names: [dog, cat]\ntrain: ../images/train\nval: ../images/val\n")
    assert Yolo(path=folder).split_sizes == {"train": 2, "val": 1}


def test_a_list_of_pictures(folder: Path):
    write(folder / "train.txt", "images/train/a.png\n\n./images/val/c.png\n")
    write(folder / "data.yaml", "names: [dog, cat]\ntrain: train.txt\nval: images/val\n")
    assert Yolo(path=folder).split_sizes == {"train": 2, "val": 1}


def test_without_validation_a_share_is_held_out(folder: Path):
    for number in range(8):
        picture(folder / "images" / "train" / f"{number}.png")
        write(folder / "labels" / "train" / f"{number}.txt", HALF)
    write(folder / "data.yaml", "names: [dog, cat]\ntrain: images/train\n")
    assert Yolo(path=folder, validation=0.2, test=0.2).split_sizes == {"train": 6, "val": 2, "test": 2}


def test_where_labels_lie():
    assert labels_of(Path("x/images/train/a.b.jpg")) == Path("x/labels/train/a.b.txt")
    assert labels_of(Path("images/images/a.jpg")) == Path("images/labels/a.txt")  # the last one
    assert labels_of(Path("x/a.jpg")) == Path("x/a.txt")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("1 0.5 0.5 1", "has 4 numbers, a box has five: class, centre x, centre y, width, height"),
        ("1 .1 .1 .2 .2 .3 .3 .1 .1", "has 9 numbers, a box has five"),
        ("2 0.5 0.5 1 1", "is of class 2, the classes are 0 to 1"),
        ("-1 0.5 0.5 1 1", "is of class -1, the classes are 0 to 1"),
        ("0.5 0.5 0.5 1 1", "is of class 0.5, the classes are 0 to 1"),
        ("dog 0.5 0.5 1 1", "`dog 0.5 0.5 1 1` is not made of numbers"),
    ],
)
def test_a_line_that_is_no_box(folder: Path, line: str, message: str):
    file = write(folder / "labels" / "train" / "a.txt", f"{HALF}{line}\n")
    with pytest.raises(RunError) as error:
        Yolo(path=folder)
    assert str(error.value).startswith(f"{file}:2: {message}")
    data = Yolo(path=folder, bad="skip")
    assert data.split_sizes["train"] == 1
    assert f"{file}:2: {message}" in data.notes[0]


def test_a_box_without_area_and_one_outside(folder: Path):
    file = write(folder / "labels" / "train" / "a.txt", f"0 0.5 0.5 0 0.5\n{HALF}0 2 0.5 0.5 0.5\n0 0 0 0.5 0.5")
    with pytest.raises(RunError, match=r"a\.txt: box 1 of 4 \[30, 10, 30, 30\] of a picture of 40x60 has no area"):
        Yolo(path=folder)
    data = Yolo(path=folder, bad="skip")
    assert data.split("train")[0]["boxes"].tolist() == [[0, 0, 30, 40], [0, 0, 15, 10]]
    assert data.notes[0].startswith(f"2 boxes of the split `train` were left out: {file}: box 1 of 4")
    assert data.notes[1].startswith(f"1 boxes of the split `train` were cut to their picture: {file}: box 4 of 4")


def test_a_picture_that_is_none(folder: Path):
    (folder / "images" / "train" / "a.png").write_text("nothing")
    with pytest.raises(RunError, match=r"a\.png: is no picture that can be read .* Mend it"):
        Yolo(path=folder)
    assert Yolo(path=folder, bad="skip").split_sizes["train"] == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("names: [dog", "is no YAML that can be read"),
        ("- dog", "holds no mapping with `names` and `train`"),
        ("train: images/train", "`names` is neither a list nor a mapping from the numbers 0, 1, ... without a gap"),
        ("names: {0: dog, 2: cat}\ntrain: images/train", "`names` is neither a list nor a mapping"),
        ("names: []\ntrain: images/train", "`names` is neither a list nor a mapping"),
        ("names: [dog]\nnc: 2\ntrain: images/train", "`nc` is 2, but there are 1 `names`"),
        ("names: [dog]\nval: images/val", "names no pictures to `train` on"),
        ("names: [dog]\ntrain: images/tarin", "`train` is images/tarin, and "),
        ("names: !!python/object/apply:os.getcwd []\ntrain: images/train", "is no YAML that can be read"),
    ],
)
def test_a_file_that_cannot_be_used(folder: Path, text: str, message: str):
    file = write(folder / "data.yaml", text)
    with pytest.raises(RunError) as error:
        Yolo(path=folder)
    assert str(error.value).startswith(f"{file}: {message}")


def test_a_folder_that_is_empty_or_not_there(folder: Path):
    (folder / "empty").mkdir()
    write(folder / "data.yaml", "names: [dog]\ntrain: empty\n")
    with pytest.raises(RunError, match=r"empty: holds no picture \(looked for \.jpg"):
        Yolo(path=folder)
    with pytest.raises(RunError, match=r"nowhere: there is no such file"):
        Yolo(path=folder / "nowhere")


def test_pictures_that_are_not_where_the_file_says(folder: Path):
    write(folder / "data.yaml", "names: [dog, cat]\ntrain: images/training\nval: images/val\n")
    with pytest.raises(RunError, match=r"data.yaml: `train` is images/training, and .*images/training is not there$"):
        Yolo(path=folder)
