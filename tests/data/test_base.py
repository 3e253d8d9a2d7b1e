"""What every data component gives, shown on a small one."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from kdcore.data.arrays import Columns
from kdcore.data.base import Data, Split
from kdcore.data.loader import EpochBatches
from kdcore.errors import RunError


class Numbers(Data):
    """Seven to train on, three to validate; a test split only if asked for."""

    def __init__(self, *, batch_size: int = 4, test: int = 0) -> None:
        super().__init__(batch_size=batch_size)
        self.facts = {"classes": 2}
        self.sizes: dict[Split, int] = {"train": 7, "val": 3, "test": test}

    def split(self, name: Split) -> Columns | None:
        return Columns({"id": torch.arange(self.sizes[name])}) if self.sizes[name] else None


def ids(loader: Any) -> list[list[int]]:
    return [batch["id"].tolist() for batch in loader]


def test_training_is_shuffled_by_the_recipe_s_seed_and_the_rest_is_not() -> None:
    data = Numbers(test=5)
    orders = []
    for seed in (0, 0, 1):
        data.seed = seed
        orders.append(ids(data.train_dataloader()))
    assert orders[0] == orders[1] != orders[2]
    assert [len(batch) for batch in orders[0]] == [4, 3]
    assert ids(data.val_dataloader()) == [[0, 1, 2]]
    assert ids(data.test_dataloader()) == [[0, 1, 2, 3], [4]]


def test_what_is_not_trained_on_may_come_in_larger_batches() -> None:
    data = Numbers(test=5)
    data.evaluation_batch_size = 3
    assert [len(batch) for batch in ids(data.train_dataloader())] == [4, 3]
    assert [len(batch) for batch in ids(data.test_dataloader())] == [3, 2]


def test_data_without_a_test_split_says_so() -> None:
    data = Numbers()
    assert not data.has_test
    assert data.split_sizes == {"train": 7, "val": 3}
    with pytest.raises(RunError, match=r"the data \(Numbers\) has no test split"):
        data.test_dataloader()


def test_data_with_a_test_split_says_so() -> None:
    data = Numbers(test=5)
    assert data.has_test
    assert data.split_sizes == {"train": 7, "val": 3, "test": 5}


def test_the_global_batch_is_divided_over_the_trainer_s_ranks() -> None:
    whole = ids(Numbers().train_dataloader())
    parts = []
    for rank in range(2):
        data = Numbers()
        data.trainer = SimpleNamespace(global_rank=rank, world_size=2)  # type: ignore[assignment]
        parts.append(ids(data.train_dataloader()))
        assert ids(data.val_dataloader()) == [[0, 2], [1]][rank : rank + 1]
    assert [[batch[r::2] for batch in whole] for r in range(2)] == parts


def test_single_samples_are_stacked_by_the_data_s_own_collate() -> None:
    class Ragged(Numbers):
        def split(self, name: Split) -> Any:
            return [{"id": row, "x": torch.ones(row)} for row in range(3)]

        @staticmethod
        def collate(samples: list[Any]) -> dict[str, Any]:
            return {"id": torch.tensor([s["id"] for s in samples]), "x": torch.cat([s["x"] for s in samples])}

    (batch,) = Ragged().val_dataloader()
    assert batch["id"].tolist() == [0, 1, 2]
    assert batch["x"].shape == (3,)


def test_an_impossible_batch_size_is_refused() -> None:
    with pytest.raises(ValueError, match="batch_size=0: give at least 1"):
        Numbers(batch_size=0)


def test_a_subclass_must_give_its_splits() -> None:
    with pytest.raises(NotImplementedError, match=r"Data does not implement split\(name\)"):
        Data(batch_size=1).val_dataloader()


class Backwards(EpochBatches):
    def order(self) -> torch.Tensor:
        return super().order().flip(0)


class InTurn(Numbers):
    """The largest first, in training alone."""

    def sampler(self, samples: Any, name: Split) -> Callable[..., EpochBatches]:
        return Backwards if name == "train" else super().sampler(samples, name)


def test_the_data_may_divide_an_epoch_into_batches_itself() -> None:
    plain, turned = Numbers(batch_size=4), InTurn(batch_size=4)
    for data in (plain, turned):
        data.seed = 3
    first = [row for batch in ids(plain.train_dataloader()) for row in batch]
    assert [row for batch in ids(turned.train_dataloader()) for row in batch] == first[::-1]
    assert ids(turned.val_dataloader()) == ids(plain.val_dataloader())


@pytest.mark.parametrize("labels", [3, torch.tensor(3), torch.tensor([3, 4])])
def test_labels_are_hidden_whatever_they_look_like(labels: Any) -> None:
    hidden = Data.without_labels({"id": 1, "image": 0.5, "labels": labels})
    assert hidden["labels"].tolist() == torch.full_like(torch.as_tensor(labels), -100).tolist()
    assert (hidden["id"], hidden["image"]) == (1, 0.5)


def test_samples_without_labels_get_some_that_say_so() -> None:
    assert Data.without_labels({"id": torch.tensor([1, 2])})["labels"].tolist() == [-100, -100]
