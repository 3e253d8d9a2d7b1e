"""COCO's JSON: numbers with gaps, crowds, and everything that may be wrong with a file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from kdcore.errors import RunError
from pictures import TURNED_BOX, check_upright, coco_content, coco_file, turned_picture, write

from kdcore_detection.data.coco import Coco

BOX = {"image_id": 10, "category_id": 18, "bbox": [6, 4, 30, 20]}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three pictures to train on and one for validation; category 18 is class 1."""
    boxes = [BOX, {**BOX, "category_id": 3, "iscrowd": 1}, {**BOX, "image_id": 11}]
    coco_file(tmp_path / "train" / "_annotations.json", coco_content(3, boxes))
    coco_file(tmp_path / "val" / "_annotations.json", coco_content(1, [BOX]))
    return tmp_path


FILES = {"train": "train/_annotations.json", "val": "val/_annotations.json"}


def changed(folder: Path, **keys: Any) -> Path:
    """The training file with other lists."""
    file = folder / FILES["train"]
    write(file, json.dumps({**json.loads(file.read_text()), **keys}))
    return file


def test_numbers_with_gaps_become_classes_in_order(folder: Path):
    data = Coco(path=folder, annotations=FILES)
    assert data.class_names == ("car", "dog")
    sample = data.split("train")[0]
    assert sample["boxes"].tolist() == [[6, 4, 36, 24], [6, 4, 36, 24]]
    assert sample["box_labels"].tolist() == [1, 0]
    assert sample["box_ignore"].tolist() == [False, True]
    assert data.facts == {"classes": 2, "channels": 3, "image_height": 40, "image_width": 60}


def test_a_picture_without_annotations_counts_as_background(folder: Path):
    data = Coco(path=folder, annotations=FILES)
    assert len(data.split("train")[2]["boxes"]) == 0
    assert data.notes == ["1 of 3 pictures of the split `train` have no box: they count as background"]


def test_the_order_in_the_file_changes_no_id(folder: Path):
    before = Coco(path=folder, annotations=FILES).split("train")
    content = json.loads((folder / FILES["train"]).read_text())
    changed(folder, images=content["images"][::-1])
    after = Coco(path=folder, annotations=FILES).split("train")
    assert [len(before[row]["boxes"]) for row in range(3)] == [len(after[row]["boxes"]) for row in range(3)]


def test_the_layout_of_coco_2017_is_the_default(tmp_path: Path):
    for split, count in (("train", 3), ("val", 1)):
        content = coco_content(count, [BOX])
        coco_file(tmp_path / f"{split}2017" / "unused.json", content)
        write(tmp_path / "annotations" / f"instances_{split}2017.json", json.dumps(content))
    assert Coco(path=tmp_path).split_sizes == {"train": 3, "val": 1}


def test_pictures_elsewhere(folder: Path):
    (folder / "train").rename(folder / "pictures")
    file = folder / "boxes.json"
    (folder / "pictures" / "_annotations.json").rename(file)
    data = Coco(path=folder, annotations={**FILES, "train": "boxes.json"}, images={"train": "pictures"})
    assert data.split_sizes == {"train": 3, "val": 1}


def test_without_a_file_for_validation_a_share_is_held_out(tmp_path: Path):
    coco_file(tmp_path / "a.json", coco_content(10, [{**BOX, "image_id": 10 + k} for k in range(10)]))
    data = Coco(path=tmp_path, annotations={"train": "a.json"}, validation=0.2, test=0.1)
    assert data.split_sizes == {"train": 7, "val": 2, "test": 1}
    assert Coco(path=tmp_path, annotations={"train": "a.json", "test": "a.json"}, test=0.5).split_sizes["test"] == 10


def test_sizes_that_the_file_does_not_tell(folder: Path):
    content = json.loads((folder / FILES["train"]).read_text())
    changed(folder, images=[{key: entry[key] for key in ("id", "file_name")} for entry in content["images"]])
    assert Coco(path=folder, annotations=FILES).facts["image_height"] == 40


@pytest.mark.parametrize("told", [{}, {"height": 80, "width": 40}])
def test_boxes_are_those_of_the_picture_as_it_is_shown(folder: Path, told: dict[str, int]):
    turned_picture(folder / "train" / "a.jpg")
    left, top, right, bottom = TURNED_BOX
    box = {"id": 0, "image_id": 10, "category_id": 18, "bbox": [left, top, right - left, bottom - top]}
    changed(folder, images=[{"id": 10, "file_name": "a.jpg", **told}], annotations=[box])
    check_upright(Coco(path=folder, annotations=FILES, size=(80, 40)).split("train")[0])


def test_boxes_of_the_picture_as_it_is_stored(folder: Path):
    turned_picture(folder / "train" / "a.jpg")
    changed(folder, images=[{"id": 10, "file_name": "a.jpg", "height": 40, "width": 80}], annotations=[BOX])
    with pytest.raises(RunError) as error:
        Coco(path=folder, annotations=FILES, size=(80, 40)).split("train")
    assert str(error.value).startswith(
        f"{folder}/train/a.jpg: is 80x40 when turned as its EXIF says (6), but {folder}/train/_annotations.json: "
        "`a.jpg` says 40x80: its boxes would be elsewhere. Mend it"
    )


def test_a_box_that_is_no_box_spoils_its_picture(folder: Path):
    changed(folder, annotations=[BOX, {**BOX, "image_id": 11, "bbox": [1, 2, 3]}])
    with pytest.raises(RunError, match=r"`b\.png` has a box \[1, 2, 3\], which is not \[left, top, width, height\]"):
        Coco(path=folder, annotations=FILES)
    data = Coco(path=folder, annotations=FILES, bad="skip")
    assert data.split_sizes["train"] == 2
    assert data.notes[0].startswith("1 of 3 samples of the split `train` were left out: ")


def test_a_box_without_area(folder: Path):
    changed(folder, annotations=[BOX, {**BOX, "bbox": [6, 4, 0, 20]}])
    with pytest.raises(
        RunError, match=r"`a\.png`: box 2 of 2 \[6, 4, 6, 24\] of a picture of 40x60 has no area\. Mend"
    ):
        Coco(path=folder, annotations=FILES)
    assert len(Coco(path=folder, annotations=FILES, bad="skip").split("train")[0]["boxes"]) == 1


def test_a_picture_without_a_name(folder: Path):
    changed(folder, images=[{"id": 10, "height": 40, "width": 60}], annotations=[BOX])
    with pytest.raises(RunError, match=r'the image \{"id": 10, .*\} has no `file_name`'):
        Coco(path=folder, annotations=FILES)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (
            {"annotations": [{**BOX, "category_id": 4}]},
            "`a.png` has a box of category 4, which is not among `categories`",
        ),
        ({"annotations": [{**BOX, "image_id": 99}]}, "not among `images`: 1 of image 99"),
        ({"annotations": [{"category_id": 3}]}, 'the annotation {"category_id": 3} has no `image_id`'),
        ({"annotations": None}, "has no list `annotations`, which COCO's format has"),
        ({"images": [{"id": 10}, {"id": 10}]}, "the `id` of an image is missing or occurs twice"),
        ({"images": [{"file_name": "a.png"}]}, "the `id` of an image is missing or occurs twice"),
        ({"categories": []}, "has no category"),
        ({"categories": [{"id": "3", "name": "car"}]}, 'the category {"id": "3", "name": "car"} has no number `id`'),
        (
            {"categories": [{"id": 3, "name": "car"}, {"id": 3, "name": "cat"}]},
            "the categories `car` and `cat` have one id, 3",
        ),
        (
            {"categories": [{"id": 3, "name": "car"}, {"id": 18, "name": "cat"}]},
            "the category 18 is `dog`, and in {train} it is `cat`",
        ),
        ({"categories": [{"id": 18, "name": "dog"}]}, "the category 3 is `car`, and in {train} it is no category"),
    ],
)
def test_a_file_that_contradicts_itself(folder: Path, keys: dict[str, Any], message: str):
    file = changed(folder, **keys)
    with pytest.raises(RunError) as error:
        Coco(path=folder, annotations=FILES, bad="skip")
    assert message.replace("{train}", str(file)) in str(error.value)
    assert ".json: " in str(error.value)


def test_files_that_are_none(folder: Path):
    file = folder / FILES["train"]
    file.write_text("{")
    with pytest.raises(RunError, match=r"_annotations\.json: is no JSON that can be read \(Expecting property name"):
        Coco(path=folder, annotations=FILES)
    file.write_text("[]")
    with pytest.raises(RunError, match="has no list `images`, which COCO's format has"):
        Coco(path=folder, annotations=FILES)
    file.unlink()
    with pytest.raises(RunError, match=r"train/_annotations\.json: there is no such file"):
        Coco(path=folder, annotations=FILES)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"annotations": {"training": "a"}}, "annotations: there is no split `training`; write train, val and test"),
        ({"annotations": {"train": "a"}, "images": {"tset": "a"}}, "images: there is no split `tset`"),
        ({"annotations": {"val": "a"}}, "annotations: name at least the file to `train` on"),
    ],
)
def test_splits_that_there_are_not(tmp_path: Path, given: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        Coco(path=tmp_path, **given)
