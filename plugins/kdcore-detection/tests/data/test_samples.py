"""What torchvision's transforms do to samples, and how samples become a batch."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from kdcore.data.augment import Chain
from kdcore.errors import RunError
from kdcore.transforms.torchvision import Torchvision
from torch import Tensor
from torchvision.tv_tensors import BoundingBoxes

from kdcore_detection.data.samples import Held, Streamed, Targets, collate, without_boxes

HEIGHT, WIDTH = 48, 64


def held(*boxes: list[list[int]]) -> Held:
    """Black pictures whose boxes are white."""
    images = torch.zeros(len(boxes), 3, HEIGHT, WIDTH, dtype=torch.uint8)
    for image, rows in zip(images, boxes, strict=True):
        for left, top, right, bottom in rows:
            image[:, top:bottom, left:right] = 255
    return Held(images, targets(*boxes))


def targets(*boxes: list[list[int]]) -> Targets:
    return Targets(
        ids=torch.arange(len(boxes)) + 5,
        boxes=[torch.tensor(rows, dtype=torch.float32).reshape(-1, 4) for rows in boxes],
        labels=[torch.arange(len(rows)) for rows in boxes],
        ignore=[torch.zeros(len(rows), dtype=torch.bool) for rows in boxes],
    )


def shown(sample: dict[str, Any], *transforms: tuple[str, dict[str, Any]], seed: int = 0) -> dict[str, Any]:
    chain = Chain({f"{k}": Torchvision(name=name, options=options) for k, (name, options) in enumerate(transforms)})
    return chain(sample, seed)


def around_white(image: Tensor) -> Tensor:
    rows, columns = (image.mean(0) > 0.5).nonzero().T
    return torch.stack([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]).float()


def test_a_sample():
    sample = held([[2, 3, 10, 13]])[0]
    assert sample["image"].dtype == torch.float32
    assert sample["image"].max() == 1
    assert isinstance(sample["boxes"], BoundingBoxes)
    assert sample["boxes"].canvas_size == (HEIGHT, WIDTH)
    assert bool(sample["boxes_known"])
    assert int(sample["id"]) == 5


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(
    "transforms",
    [
        [("RandomHorizontalFlip", {"p": 1.0})],
        [("RandomVerticalFlip", {"p": 1.0})],
        [("RandomZoomOut", {"side_range": [1.0, 2.0], "p": 1.0}), ("Resize", {"size": [HEIGHT, WIDTH]})],
        [("RandomAffine", {"degrees": 0, "translate": [0.1, 0.1]})],
        [
            ("ScaleJitter", {"target_size": [HEIGHT, WIDTH], "scale_range": [0.8, 1.5]}),
            ("RandomCrop", {"size": [HEIGHT, WIDTH], "pad_if_needed": True}),
        ],
        [("RandomResizedCrop", {"size": [HEIGHT, WIDTH], "scale": [0.7, 1.0]})],
        [("RandomIoUCrop", {}), ("Resize", {"size": [HEIGHT, WIDTH]})],
    ],
)
def test_boxes_move_with_their_picture(transforms: list[tuple[str, dict[str, Any]]], seed: int):
    moved = shown(held([[20, 12, 40, 30]])[0], *transforms, seed=seed)
    batch = collate([moved])
    assert batch["image"].shape == (1, 3, HEIGHT, WIDTH)
    if batch["box_labels"][0, 0] == 0:  # the crop has left something of it
        assert (batch["boxes"][0, 0] - around_white(batch["image"][0])).abs().max() <= 1.5
    else:
        assert (batch["image"] > 0.5).float().mean() < 0.01


def test_some_of_these_change_boxes():
    sample = held([[20, 12, 40, 30]])[0]
    assert shown(sample, ("RandomHorizontalFlip", {"p": 1.0}))["boxes"].tolist() == [[24, 12, 44, 30]]
    drawn = {str(shown(sample, ("RandomIoUCrop", {}), seed=seed)["boxes"].tolist()) for seed in range(20)}
    assert len(drawn) > 5


def test_the_sample_itself_is_left_as_it_was():
    sample = held([[20, 12, 40, 30]])[0]
    before = {name: torch.as_tensor(value).clone() for name, value in sample.items()}
    shown(sample, ("RandomHorizontalFlip", {"p": 1.0}))
    assert all(torch.equal(torch.as_tensor(sample[name]), before[name]) for name in sample)


def test_what_a_crop_has_emptied_is_dropped_with_its_label():
    sample = held([[0, 0, 8, 8], [30, 20, 50, 40]])[0]
    cropped = shown(sample, ("CenterCrop", {"size": [24, 32]}))
    batch = collate([cropped])
    assert batch["box_labels"].tolist() == [[1]]
    assert batch["boxes"].tolist() == [[[14, 8, 32, 24]]]


@pytest.mark.parametrize("places", [[0, 2], [1, 3]])
@pytest.mark.parametrize(("side", "kept"), [(0.9, []), (1.1, [0])])
def test_less_than_a_pixel_is_no_object(places: list[int], side: float, kept: list[int]):
    sample = held([[20, 20, 40, 40]])[0]
    sample["boxes"][0, places] = torch.tensor([20.0, 20.0 + side])
    assert [label for label in collate([sample])["box_labels"][0].tolist() if label >= 0] == kept


def test_a_sliver_that_a_crop_leaves_is_dropped_with_its_label():
    sample = held([[0, 0, 17, 40], [0, 0, 18, 40]])[0]
    sample["boxes"][0, 2] -= 0.5  # the crop begins at 16
    batch = collate([shown(sample, ("CenterCrop", {"size": [HEIGHT, WIDTH - 32]}))])
    assert batch["box_labels"].tolist() == [[1]]
    assert batch["boxes"].tolist() == [[[0, 0, 2, 40]]]


def test_a_crop_that_leaves_nothing_leaves_a_picture_without_boxes():
    cropped = shown(held([[0, 0, 8, 8]])[0], ("CenterCrop", {"size": [24, 32]}))
    batch = collate([cropped])
    assert batch["box_labels"].tolist() == [[-100]]
    assert batch["boxes"].tolist() == [[[0, 0, 0, 0]]]
    assert batch["boxes_known"].tolist() == [True]  # known to have none


def test_a_batch_is_padded():
    data = held([[0, 0, 8, 8]], [], [[1, 1, 4, 4], [5, 5, 9, 9], [2, 2, 3, 3]])
    batch = collate([data[row] for row in range(3)])
    assert set(batch) == {"image", "boxes", "box_labels", "box_ignore", "boxes_known", "id"}
    assert batch["boxes"].shape == (3, 3, 4)
    assert batch["boxes"].dtype == torch.float32
    assert type(batch["boxes"]) is Tensor
    assert batch["box_labels"].tolist() == [[0, -100, -100], [-100, -100, -100], [0, 1, 2]]
    assert batch["boxes"][0].tolist() == [[0, 0, 8, 8], [0, 0, 0, 0], [0, 0, 0, 0]]
    assert batch["box_ignore"].dtype == torch.bool
    assert not batch["box_ignore"].any()
    assert batch["id"].tolist() == [5, 6, 7]


def test_ignored_boxes_are_padded_as_not_ignored():
    crowd = Targets(
        ids=torch.tensor([1, 2]),
        boxes=[torch.tensor([[0.0, 0, 2, 2]]), torch.zeros(0, 4)],
        labels=[torch.tensor([3]), torch.zeros(0, dtype=torch.int64)],
        ignore=[torch.tensor([True]), torch.zeros(0, dtype=torch.bool)],
    )
    batch = collate([crowd.sample(row, torch.zeros(3, 4, 4)) for row in range(2)])
    assert batch["box_ignore"].tolist() == [[True], [False]]


def test_a_batch_without_any_box_has_one_row():
    batch = collate([held([])[0]])
    assert batch["boxes"].shape == (1, 1, 4)
    assert batch["box_labels"].tolist() == [[-100]]


def test_other_columns_are_stacked():
    sample = {**held([[0, 0, 8, 8]])[0], "seed": torch.tensor(3), "score": 0.5}
    batch = collate([sample, sample])
    assert batch["seed"].tolist() == [3, 3]
    assert batch["score"].tolist() == [0.5, 0.5]


def test_pictures_of_different_sizes():
    first, second = held([[0, 0, 8, 8]])[0], held([[0, 0, 8, 8]])[0]
    second["image"] = second["image"][:, :40]
    with pytest.raises(RunError) as error:
        collate([first, second])
    assert str(error.value).startswith("the pictures of a batch have different sizes, (3, 40, 64) and (3, 48, 64): let")
    assert "pad_if_needed: true" in str(error.value)


def test_boxes_without_their_labels():
    sample = held([[0, 0, 8, 8], [1, 1, 5, 5]])[0]
    sample["boxes"] = sample["boxes"][:1]
    with pytest.raises(RunError) as error:
        collate([sample])
    assert str(error.value) == (
        "sample id 5 has 1 boxes and 2 labels after its transforms: leave out what drops boxes "
        "(SanitizeBoundingBoxes), because emptied boxes are dropped anyway"
    )


def test_hiding_keeps_so_many_and_more_include_the_fewer():
    data = targets(*[[[0, 0, 8, 8]]] * 20)
    few, more = data.hiding(4, seed=1), data.hiding(9, seed=1)
    assert (int(few.known.sum()), int(more.known.sum())) == (4, 9)
    assert (more.known | ~few.known).all()
    assert not torch.equal(data.hiding(4, seed=2).known, few.known)
    row = int((~few.known).nonzero()[0])
    sample = few.sample(row, torch.zeros(3, 4, 4))
    assert len(sample["boxes"]) == len(sample["box_labels"]) == len(sample["box_ignore"]) == 0
    assert isinstance(sample["boxes"], BoundingBoxes)
    assert not sample["boxes_known"]


@pytest.mark.parametrize("keep", [0, 21])
def test_labels_that_there_are_not(keep: int):
    with pytest.raises(ValueError, match=f"labels={keep}: give from 1 to 20, or leave it out to keep them all"):
        targets(*[[[0, 0, 8, 8]]] * 20).hiding(keep, seed=1)


def test_a_batch_without_its_boxes():
    batch = collate([held([[0, 0, 8, 8]])[0]])
    hidden = without_boxes(batch)
    assert hidden["box_labels"].tolist() == [[-100]]
    assert hidden["boxes"].tolist() == [[[0, 0, 0, 0]]]
    assert hidden["boxes_known"].tolist() == [False]
    assert batch["boxes_known"].tolist() == [True]
    assert torch.equal(hidden["image"], batch["image"])


def test_streamed_samples_are_read_each_time():
    read: list[int] = []

    def pixels(row: int) -> Tensor:
        read.append(row)
        return torch.full((3, 4, 4), 255, dtype=torch.uint8)

    data = Streamed(pixels, targets([[0, 0, 2, 2]], [])).hiding(1, seed=0)
    assert len(data) == 2
    assert data[1]["image"].max() == data[1]["image"].min() == 1
    assert read == [1, 1]
    assert sum(bool(data[row]["boxes_known"]) for row in range(2)) == 1
