from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from kdcore.data.base import Treatment
from kdcore.data.digits import Digits
from kdcore.data.loader import Batches

from kdcore_segmentation.data import digits
from kdcore_segmentation.data.digits import COUNTS, DigitScenes, draw


@pytest.fixture(autouse=True, scope="module")
def few() -> Iterator[None]:
    """A twentieth of the pictures is enough to see that all is well."""
    patch = pytest.MonkeyPatch()
    patch.setattr(digits, "COUNTS", {"train": 40, "val": 10, "test": 20})
    yield
    patch.undo()


@pytest.fixture(scope="module")
def scenes() -> DigitScenes:
    return DigitScenes(batch_size=8)


def test_what_there_is(scenes: DigitScenes):
    assert scenes.split_sizes == {"train": 40, "val": 10, "test": 20}
    assert isinstance(scenes.split("train"), Batches)
    height, width = scenes.facts["image_height"], scenes.facts["image_width"]
    assert scenes.facts == {"classes": 11, "channels": 3, "image_height": height, "image_width": width}
    assert scenes.class_names == ("ground", *"0123456789")
    batch = next(iter(scenes.train_dataloader()))
    assert (batch["image"].dtype, batch["image"].shape) == (torch.float32, (8, 3, height, width))
    assert (batch["labels"].dtype, batch["labels"].shape) == (torch.int64, (8, height, width))
    assert batch["image"].min() >= 0
    assert 0.5 < batch["image"].max() <= 1


def test_every_class_is_there_and_none_takes_all(scenes: DigitScenes):
    labels = scenes.split("train").__getitems__(torch.arange(40))["labels"]
    share = labels.flatten().bincount(minlength=11) / labels.numel()
    assert len(share) == 11
    assert (share > 0.005).all()
    assert share[0] < 0.9


def test_pictures_are_a_function_of_their_number_alone(scenes: DigitScenes):
    other = DigitScenes()
    other.seed = 3
    torch.manual_seed(5)
    before = torch.get_rng_state()
    ours, theirs = (data.split("val").__getitems__([0, 7]) for data in (scenes, other))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert torch.equal(torch.get_rng_state(), before)
    assert not torch.equal(ours["image"][0], ours["image"][1])


def test_ids_of_the_splits_never_meet(scenes: DigitScenes):
    ids = torch.cat([scenes.split(name).ids for name in ("train", "val", "test")])
    assert len(ids.unique()) == 70


def test_the_digits_of_a_split_come_from_that_split(monkeypatch: pytest.MonkeyPatch):
    given: dict[int, list[int]] = {}

    def remember(columns: dict[str, torch.Tensor], size: tuple[int, int], seed: int) -> tuple[torch.Tensor, ...]:
        given.setdefault(len(columns["id"]), columns["id"].tolist())
        return torch.zeros(3, *size, dtype=torch.uint8), torch.zeros(size, dtype=torch.uint8)

    monkeypatch.setattr(digits, "draw", remember)
    DigitScenes().split("train")
    core = Digits()
    assert given == {
        len(core.split(name)): core.split(name).columns["id"].tolist() for name in ("train", "val", "test")
    }
    assert len({one for found in given.values() for one in found}) == sum(map(len, given.values()))


def test_the_mask_is_where_the_ink_is(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(digits, "DIGITS", (1, 1))
    full = {"image": torch.ones(1, 1, 8, 8), "labels": torch.tensor([6])}
    image, mask = draw(full, (40, 48), seed=2)
    rows, columns = (mask == 7).nonzero().unbind(1)
    side = int(rows.max() - rows.min()) + 1
    assert set(mask.unique().tolist()) == {0, 7}
    assert len(rows) == side**2  # a full square of ink
    assert digits.SIDES[0] <= side <= digits.SIDES[1]
    assert int(columns.max() - columns.min()) + 1 == side
    inside = image[:, mask == 7]
    assert (inside == inside[:, :1]).all()  # one colour covers the ground
    outside = image[:, mask == 0]
    assert (outside != outside[:, :1]).any()


def test_faint_ink_is_no_digit(monkeypatch: pytest.MonkeyPatch):
    faint = {"image": torch.full((1, 1, 8, 8), digits.INK - 0.01), "labels": torch.tensor([6])}
    assert draw(faint, (40, 40), seed=2)[1].max() == 0


def test_a_later_digit_covers_an_earlier_one(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(digits, "DIGITS", (30, 30))
    two = {"image": torch.ones(2, 1, 8, 8), "labels": torch.tensor([0, 1])}
    mask = draw(two, (32, 32), seed=0)[1]
    assert set(mask.unique().tolist()) <= {0, 1, 2}
    assert (mask > 0).float().mean() > 0.9


def test_a_larger_picture_holds_more_digits():
    def share(size: tuple[int, int]) -> float:
        full = {"image": torch.ones(1, 1, 8, 8), "labels": torch.tensor([6])}
        return sum(float((draw(full, size, seed)[1] > 0).float().mean()) for seed in range(20)) / 20

    assert share((32, 32)) == pytest.approx(share((96, 128)), rel=0.3)


def test_labels_that_are_kept_are_whole_pictures_chosen_by_the_seed():
    def labelled(labels: int, seed: int) -> set[int]:
        data = DigitScenes(labels=labels)
        data.seed = seed
        batch = data.split("train").__getitems__(torch.arange(40))
        hidden = (batch["labels"] == -100).flatten(1)
        assert (hidden.all(1) | ~hidden.any(1)).all()
        return set(batch["id"][~hidden.all(1)].tolist())

    five, ten, other = labelled(5, 0), labelled(10, 0), labelled(5, 1)
    assert (len(five), len(ten)) == (5, 10)
    assert five < ten  # more labels include the fewer
    assert five != other


def test_only_training_labels_are_hidden():
    data = DigitScenes(labels=1)
    assert (data.split("val").__getitems__(torch.arange(10))["labels"] >= 0).all()
    assert (data.split("test").__getitems__(torch.arange(20))["labels"] >= 0).all()


def test_hidden_labels_do_not_stay_hidden(scenes: DigitScenes):
    data = DigitScenes(labels=1)
    data.split("train")
    data._labels = None
    assert (data.split("train").__getitems__(torch.arange(40))["labels"] >= 0).all()


def test_a_student_alone_may_train_on_pictures_with_a_mask_only(scenes: DigitScenes):
    data = DigitScenes(labels=3, batch_size=40)
    data.treatment = Treatment(labelled=True)
    (batch,) = data.train_dataloader()
    assert len(batch["id"]) == 3
    assert (batch["labels"] >= 0).all()


@pytest.mark.parametrize("size", [(16, 64), (64, 8)])
def test_a_size_without_room(size: tuple[int, int]):
    with pytest.raises(ValueError, match=rf"size=\[{size[0]}, {size[1]}\]: digits of up to"):
        DigitScenes(size=size)


@pytest.mark.parametrize("labels", [0, -1, COUNTS["train"] + 1])
def test_more_labels_than_pictures(labels: int):
    with pytest.raises(ValueError, match=f"labels={labels}: give from 1 to"):
        DigitScenes(labels=labels)
