"""The embedded pictures: real digits, each in its box."""

from __future__ import annotations

import pytest
import torch
from kdcore.data.base import Treatment
from kdcore.data.chosen import labelled_rows
from kdcore.data.digits import Digits
from torch import Tensor
from torchvision.ops import box_iou

from kdcore_detection.data import digits
from kdcore_detection.data.digits import DigitBoxes, around, draw


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digits, "COUNTS", {"train": 24, "val": 6, "test": 6})


def test_three_splits_whose_ids_differ():
    data = DigitBoxes()
    assert data.split_sizes == {"train": 24, "val": 6, "test": 6}
    ids = torch.cat([data.split(name).ids for name in ("train", "val", "test")])
    assert len(ids.unique()) == 36
    assert data.class_names == tuple("0123456789")
    assert data.facts == {"classes": 10, "channels": 3, "image_height": 64, "image_width": 64}


def test_pictures_do_not_follow_the_recipes_seed():
    first, second = DigitBoxes(), DigitBoxes()
    second.seed = 7
    for row in range(6):
        one, other = first.split("val")[row], second.split("val")[row]
        assert torch.equal(one["image"], other["image"])
        assert torch.equal(one["boxes"], other["boxes"])


def test_boxes_hold_the_ink_and_lie_inside():
    data = DigitBoxes(size=(64, 96)).split("train")
    for row in range(len(data)):
        sample = data[row]
        boxes = sample["boxes"].as_subclass(Tensor)
        assert 1 <= len(boxes) <= 3
        assert (boxes[:, :2] >= 0).all()
        assert (boxes[:, 2:] <= torch.tensor([96, 64])).all()
        assert ((boxes[:, 2:] - boxes[:, :2]) >= 5).all()
        overlap = box_iou(boxes, boxes).fill_diagonal_(0)
        assert overlap.max() <= digits.OVERLAP
        inside = torch.zeros(64, 96, dtype=torch.bool)
        for left, top, right, bottom in boxes.int().tolist():
            inside[top:bottom, left:right] = True
        # a digit is brighter than the ground, and nothing bright is far from a box
        brightest = sample["image"].amax(0)
        assert brightest[inside].mean() > brightest[~inside].mean() + 0.1


def test_the_digits_are_those_of_the_split():
    drawn = {name: set() for name in ("train", "test")}
    for name, rows in drawn.items():
        columns = Digits().split(name).columns
        one = {"image": columns["image"][:1], "labels": columns["labels"][:1]}
        _, boxes, labels = draw(one, (64, 64), seed=3)
        assert (labels == columns["labels"][0]).all()
        rows.add(tuple(map(tuple, boxes.tolist())))
    assert drawn["train"] != drawn["test"]


def test_a_larger_picture_holds_more():
    few, many = (DigitBoxes(size=(64, side)).split("train") for side in (64, 256))
    assert sum(len(many[row]["boxes"]) for row in range(24)) > 2 * sum(len(few[row]["boxes"]) for row in range(24))


def test_the_box_around_some_ink():
    ink = torch.zeros(10, 10)
    ink[2:5, 3:9] = 0.5
    ink[8, 8] = 0.3  # too little
    assert around(ink).tolist() == [3, 2, 9, 5]


def test_the_boxes_of_most_pictures_are_hidden():
    data = DigitBoxes(labels=5)
    batch = data.collate([data.split("train")[row] for row in range(24)])
    assert int(batch["boxes_known"].sum()) == 5
    assert ((batch["box_labels"] != -100).any(1) == batch["boxes_known"]).all()
    assert data.split("val")[0]["boxes_known"]
    hidden = data.without_labels(batch)
    assert not hidden["boxes_known"].any()


def test_it_tells_which_pictures_have_their_boxes():
    data = DigitBoxes(labels=5, batch_size=24)
    told = data.split("train")
    untold = [told[row] for row in range(24)]  # a list, whose pictures are looked at
    assert labelled_rows(untold, data.without_labels).tolist() == told.labelled.nonzero().flatten().tolist()
    data.treatment = Treatment(labelled=True)
    (batch,) = data.train_dataloader()
    assert batch["boxes_known"].tolist() == [True] * 5


def test_too_small_a_picture():
    with pytest.raises(ValueError, match=r"size=\[64, 63\]: digits of up to 36 pixels need at least 64x64"):
        DigitBoxes(size=(64, 63))


def test_more_labels_than_pictures():
    with pytest.raises(ValueError, match="labels=25: give from 1 to 24"):
        DigitBoxes(labels=25).split("train")
