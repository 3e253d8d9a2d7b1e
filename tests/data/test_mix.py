from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from kdcore.build import Builder
from kdcore.data.arrays import Arrays
from kdcore.data.base import Data, Split
from kdcore.data.mix import UNLABELLED_IDS, Mix
from kdcore.plugins import Plugins
from kdcore.recipe.check import read
from kdcore.recipe.schema import Nested
from kdcore.signals import IGNORE


def arrays(folder: Path, name: str, n: int, *, value: float, features: int = 3) -> Path:
    """``n`` rows of one value, 3 classes in turn, all in the training split but six."""
    path = folder / f"{name}.npz"
    split = np.array(["train"] * (n - 6) + ["val"] * 3 + ["test"] * 3)
    np.savez(path, x=np.full((n, features), value, dtype=np.float32), y=np.arange(n) % 3, split=split)
    return path


@pytest.fixture
def mix(tmp_path: Path) -> Mix:
    return Mix(
        labelled=Arrays(path=arrays(tmp_path, "few", 12, value=0.0)),
        unlabelled=Arrays(path=arrays(tmp_path, "many", 36, value=1.0)),
        batch_size=6,
    )


def test_an_epoch_is_every_sample_of_both_once(mix: Mix) -> None:
    batches = list(mix.train_dataloader())
    ids = torch.cat([batch["id"] for batch in batches])
    assert len(ids) == len(ids.unique()) == 6 + 30
    assert sum(int((batch["id"] >= UNLABELLED_IDS).sum()) for batch in batches) == 30
    assert any(0 < int((batch["id"] >= UNLABELLED_IDS).sum()) < len(batch["id"]) for batch in batches)


def test_labels_stay_with_the_labelled_and_are_hidden_from_the_others(mix: Mix) -> None:
    for batch in mix.train_dataloader():
        hidden = batch["id"] >= UNLABELLED_IDS
        assert (batch["labels"][hidden] == IGNORE).all()
        assert (batch["labels"][~hidden] == batch["id"][~hidden] % 3).all()
        # the rows of each come from its own file
        assert (batch["image"][hidden] == 1).all()
        assert (batch["image"][~hidden] == 0).all()


def test_validation_test_facts_and_names_are_those_of_the_labelled(mix: Mix) -> None:
    assert mix.split_sizes == {"train": 36, "val": 3, "test": 3}
    assert all((batch["image"] == 0).all() for batch in mix.val_dataloader())
    assert mix.facts == mix.labelled.facts


def test_facts_that_differ_are_refused_and_classes_may_differ(tmp_path: Path) -> None:
    few = Arrays(path=arrays(tmp_path, "few", 12, value=0.0))
    wide = Arrays(path=arrays(tmp_path, "wide", 12, value=0.0, features=4))
    with pytest.raises(ValueError, match=r"features = 3, the unlabelled 4: a net takes inputs of one kind"):
        Mix(labelled=few, unlabelled=wide)
    wide.facts = {**few.facts, "classes": 99}
    assert Mix(labelled=few, unlabelled=wide).facts["classes"] == 3


class Singles(Data):
    """Gives single samples without labels, as a folder of files would."""

    facts: dict[str, int]

    def __init__(self) -> None:
        super().__init__(batch_size=4)
        self.facts = {}

    def split(self, name: Split) -> Any:
        return [{"id": i, "image": torch.ones(3)} for i in range(10)] if name != "test" else None


def test_samples_that_come_one_by_one_and_without_labels_mix_too(tmp_path: Path) -> None:
    few = Arrays(path=arrays(tmp_path, "few", 12, value=0.0))
    batches = list(Mix(labelled=few, unlabelled=Singles(), batch_size=8).train_dataloader())
    labels = torch.cat([batch["labels"] for batch in batches])
    assert sorted(labels.tolist()) == [IGNORE] * 10 + [0, 0, 1, 1, 2, 2]


class Ragged(Data):
    """Samples of different lengths, fetched together, which it alone knows how to stack; loading finds a bad one."""

    def __init__(self, *, as_list: bool) -> None:
        super().__init__(batch_size=4)
        self.facts = {}
        self.workers = 2
        self._as_list = as_list

    @staticmethod
    def collate(samples: list[Any]) -> dict[str, torch.Tensor]:
        image = torch.stack(
            [torch.nn.functional.pad(sample["image"], (0, 3 - len(sample["image"]))) for sample in samples]
        )
        return {"image": image, "id": torch.tensor([sample["id"] for sample in samples])}

    def split(self, name: Split) -> Any:
        self.notes.append(f"a sample of `{name}` was left out")
        rows = [{"id": i, "image": torch.ones(1 + i % 3)} for i in range(10)]
        return AtOnce(rows) if self._as_list else rows


class AtOnce(list[Any]):
    """Gives lists of samples, which torch takes for samples that are yet to be collated."""

    def __getitems__(self, index: Any) -> list[Any]:
        return [self[int(row)] for row in index]


@pytest.mark.parametrize("as_list", [False, True])
def test_each_set_is_collated_as_it_says(tmp_path: Path, as_list: bool) -> None:
    few = Arrays(path=arrays(tmp_path, "few", 12, value=0.0))
    data = Mix(labelled=few, unlabelled=Ragged(as_list=as_list), batch_size=8)
    data.workers = 0
    sums = torch.cat([batch["image"].sum(1)[batch["id"] >= UNLABELLED_IDS] for batch in data.train_dataloader()])
    assert sorted(sums.tolist()) == [1.0] * 4 + [2.0] * 3 + [3.0] * 3


def test_single_samples_of_both_are_collated_together() -> None:
    """Apart, they would be padded to different lengths."""
    data = Mix(labelled=Ragged(as_list=False), unlabelled=Ragged(as_list=True), batch_size=7)
    data.workers = 0
    batches = list(data.train_dataloader())
    assert [len(batch["id"]) for batch in batches] == [7, 7, 6]
    sums = torch.cat([batch["image"].sum(1) for batch in batches])
    assert sorted(sums.tolist()) == [1.0] * 8 + [2.0] * 6 + [3.0] * 6


class Transcribed(Singles):
    """Its labels are called otherwise."""

    def split(self, name: Split) -> Any:
        return [{"id": i, "image": torch.ones(3), "tokens": torch.tensor([i, i])} for i in range(4)]

    @staticmethod
    def without_labels(batch: dict[str, Any]) -> dict[str, Any]:
        return {**batch, "tokens": torch.full_like(batch["tokens"], IGNORE)}


def test_the_data_says_how_its_labels_are_hidden() -> None:
    (batch,) = Mix(labelled=Transcribed(), unlabelled=Transcribed(), batch_size=8).train_dataloader()
    assert "labels" not in batch
    hidden = batch["id"] >= UNLABELLED_IDS
    assert (batch["tokens"][hidden] == IGNORE).all()
    assert (batch["tokens"][~hidden] == batch["id"][~hidden, None]).all()


def test_validation_is_collated_as_the_labelled_say() -> None:
    data = Mix(labelled=Ragged(as_list=False), unlabelled=Singles(), batch_size=10)
    data.workers = 0
    (batch,) = data.val_dataloader()
    assert batch["image"].shape == (10, 3)


def test_what_loads_and_what_was_noticed_is_that_of_both(tmp_path: Path) -> None:
    few = Arrays(path=arrays(tmp_path, "few", 12, value=0.0))
    few.notes.append("before")
    data = Mix(labelled=few, unlabelled=Ragged(as_list=False))
    assert data.train_dataloader().num_workers == 2
    data.labelled.notes.append("later")
    assert data.notes == ["before", "a sample of `train` was left out", "later"]


def test_a_recipe_nests_the_two(tmp_path: Path) -> None:
    arrays(tmp_path, "few", 12, value=0.0)
    arrays(tmp_path, "many", 36, value=1.0)
    (tmp_path / "recipe.yaml").write_text(
        "kdcore: 1\nname: mixed\ntask: {use: classify, classes: 3}\n"
        "data:\n  use: mix\n  labelled: {use: arrays, path: few.npz}\n  unlabelled: {use: arrays, path: many.npz}\n"
        "models: {student: {use: mlp}}\n"
        "stages: {alone: {train: student}}\nlosses: {ce: {use: cross_entropy}}\n"
        "trainer: {max_epochs: 1}\nlogger: null\n"
    )
    plugins = Plugins()
    recipe = read([tmp_path / "recipe.yaml"], [], plugins)
    nested = recipe.data.args["labelled"]
    assert isinstance(nested, Nested)
    assert (nested.kind, nested.use, nested.args["path"]) == ("data", "arrays", tmp_path / "few.npz")
    data = Builder(recipe, plugins, 7, tmp_path).data(recipe.data)
    assert isinstance(data, Mix)
    assert data.split_sizes["train"] == 36
    assert data.labelled.seed == 7
