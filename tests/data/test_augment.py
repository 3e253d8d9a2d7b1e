"""Transforms replay: what a sample looks like depends on its id, the recipe's seed, the draw and the name, only."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from kdcore.data.arrays import Columns
from kdcore.data.augment import Chain, Sample, Transformed
from kdcore.data.base import Data, Split, Treatment
from kdcore.data.loader import Loader
from kdcore.errors import RunError

N = 10


def noise(sample: Sample, seed: int) -> Sample:
    """Adds one number, drawn from the seed."""
    generator = torch.Generator().manual_seed(seed)
    return {**sample, "x": sample["x"] + torch.rand(1, generator=generator)}


def double(sample: Sample, seed: int) -> Sample:
    return {**sample, "x": sample["x"] * 2}


def columns(n: int = N) -> Columns:
    return Columns({"id": torch.arange(n) + 100, "x": torch.zeros(n, 1)})


def transformed(chain: dict[str, Any], *, views: dict[str, Any] | None = None, seed: int = 0) -> Transformed:
    shown = {name: Chain(one) for name, one in (views or {}).items()}
    return Transformed(columns(), seed=seed, chain=Chain(chain), views=shown, collate=Data.collate)


def by_id(loader: Loader, epoch: int) -> dict[int, float]:
    loader.batches.set_epoch(epoch)
    return {int(i): float(x) for batch in loader for i, x in zip(batch["id"], batch["x"], strict=True)}


# --- a chain ----------------------------------------------------------------------------------------------------------


def test_a_chain_applies_its_transforms_in_order() -> None:
    sample = {"id": 0, "x": torch.ones(1)}
    add = {"add": lambda sample, seed: {**sample, "x": sample["x"] + 1}}
    assert Chain({**add, "double": double})(sample, 0)["x"].item() == 4
    assert Chain({"double": double, **add})(sample, 0)["x"].item() == 3


def test_each_transform_draws_from_a_seed_of_its_own_that_others_do_not_change() -> None:
    seeds: dict[str, int] = {}

    def note(name: str) -> Any:
        return lambda sample, seed: seeds.__setitem__(name, seed) or sample

    Chain({"a": note("a"), "b": note("b")})({"id": 0}, 7)
    alone = dict(seeds)
    assert alone["a"] != alone["b"]
    Chain({"c": note("c"), "b": note("b")})({"id": 0}, 7)
    assert seeds["b"] == alone["b"]
    Chain({"b": note("b")})({"id": 0}, 8)
    assert seeds["b"] != alone["b"]


def test_a_transform_that_fails_is_named_with_the_sample() -> None:
    def broken(sample: Sample, seed: int) -> Sample:
        raise ValueError("no such channel")

    with pytest.raises(RunError, match=r"^the transform `gray` fails on sample id 3: ValueError: no such channel$"):
        Chain({"gray": broken})({"id": 3}, 0)


def test_a_transform_that_returns_no_sample_is_named() -> None:
    with pytest.raises(RunError, match=r"^the transform `gone` returned a NoneType, not a sample \(a dict\)$"):
        Chain({"gone": lambda sample, seed: None})({"id": 3}, 0)  # type: ignore[dict-item,return-value]


# --- the samples ------------------------------------------------------------------------------------------------------


def test_a_batch_holds_the_transformed_samples_and_the_seed_of_each() -> None:
    batch = transformed({"noise": noise}).__getitems__([3, 1])
    assert batch["id"].tolist() == [103, 101]
    assert batch["seed"].dtype == torch.int64
    assert len(set(batch["seed"].tolist())) == 2
    again = Chain({"noise": noise})({"id": 103, "x": torch.zeros(1)}, int(batch["seed"][0]))
    assert torch.equal(again["x"], batch["x"][0])


def test_a_draw_depends_on_the_id_the_seed_and_the_variant_and_on_no_neighbour() -> None:
    data = transformed({"noise": noise})
    alone = data.__getitems__([4])["x"]
    assert torch.equal(data.__getitems__([2, 4, 9])["x"][1], alone[0])
    assert not torch.equal(data.__getitems__([N + 4])["x"], alone)
    assert not torch.equal(transformed({"noise": noise}, seed=1).__getitems__([4])["x"], alone)
    assert data.__getitems__([N + 4])["id"].tolist() == [104]


def test_the_data_s_own_samples_stay_as_they_were() -> None:
    source = columns()
    shown = Transformed(source, seed=0, chain=Chain({"noise": noise}), views={}, collate=Data.collate)
    assert not torch.equal(shown.__getitems__([0])["x"], torch.zeros(1, 1))
    assert torch.equal(source.columns["x"], torch.zeros(N, 1))


class Single:
    """One sample at a time."""

    def __len__(self) -> int:
        return N

    def __getitem__(self, row: int) -> Sample:
        return {"id": row + 100, "x": torch.zeros(1)}


class Lists(Single):
    """A list of samples for a list of rows."""

    def __getitems__(self, index: Tensor) -> list[Sample]:
        return [self[int(row)] for row in index]


@pytest.mark.parametrize("source", [Single(), Lists()])
def test_samples_are_transformed_however_the_data_gives_them(source: Any) -> None:
    shown = Transformed(source, seed=0, chain=Chain({"noise": noise}), views={}, collate=Data.collate)
    assert torch.equal(shown.__getitems__([2, 5])["x"], transformed({"noise": noise}).__getitems__([2, 5])["x"])


# --- views ------------------------------------------------------------------------------------------------------------


def test_views_start_from_the_shared_transforms_and_draw_seeds_of_their_own() -> None:
    data = transformed({"noise": noise}, views={"plain": {}, "weak": {"noise": noise}, "strong": {"noise": noise}})
    batch = data.__getitems__([0, 7])
    views = batch["views"]
    assert torch.equal(views["plain"]["x"], batch["x"])
    added = {name: views[name]["x"] - batch["x"] for name in ("weak", "strong")}
    assert bool((added["weak"] > 0).all())
    assert not torch.equal(added["weak"], added["strong"])
    seeds = [batch["seed"], views["weak"]["seed"], views["strong"]["seed"]]
    assert len({int(seed) for found in seeds for seed in found}) == 6


def test_a_collate_sees_samples_as_the_data_gives_them() -> None:
    seen: list[set[str]] = []

    def collate(samples: list[Any]) -> dict[str, Any]:
        seen.extend(set(sample) for sample in samples)
        return Data.collate(samples)

    shown = Transformed(columns(), seed=0, chain=Chain({}), views={"v": Chain({})}, collate=collate)
    shown.__getitems__([0])
    assert seen == [{"id", "x"}, {"id", "x"}]


# --- through the loader -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [0, 2])
def test_every_epoch_draws_anew_and_replays_whatever_the_order(workers: int) -> None:
    shown = transformed({"noise": noise})
    loader = Loader(shown, batch_size=4, shuffle=True, variants=0, workers=workers)
    first, second = by_id(loader, 0), by_id(loader, 1)
    assert all(first[i] != second[i] for i in first)
    other = Loader(shown, batch_size=3, shuffle=False, variants=0)
    assert by_id(other, 1) == second


def test_a_number_of_variants_repeats() -> None:
    loader = Loader(transformed({"noise": noise}), batch_size=4, shuffle=True, variants=2)
    epochs = [by_id(loader, epoch) for epoch in range(4)]
    assert epochs[0] == epochs[2] != epochs[1] == epochs[3]


def test_a_resumed_epoch_draws_what_the_uninterrupted_one_does() -> None:
    def loader() -> Loader:
        return Loader(transformed({"noise": noise}), batch_size=4, shuffle=True, variants=0)

    whole, broken, resumed = loader(), loader(), loader()
    for one in (whole, broken):
        one.batches.set_epoch(3)
    expected = [batch["x"].tolist() for batch in whole]
    stopped = iter(broken)
    next(stopped)
    resumed.load_state_dict(broken.state_dict())
    assert [batch["x"].tolist() for batch in resumed] == expected[1:]


# --- as a recipe's data -----------------------------------------------------------------------------------------------


class Numbers(Data):
    def split(self, name: Split) -> Columns | None:
        return None if name == "test" else columns()


def test_only_training_samples_are_transformed() -> None:
    data = Numbers(batch_size=4)
    data.treatment = Treatment(chain=Chain({"noise": noise}))
    assert all(bool((batch["x"] > 0).all()) for batch in data.train_dataloader())
    (val, *_) = data.val_dataloader()
    assert torch.equal(val["x"], torch.zeros(4, 1))
    assert "seed" not in val


def test_without_transforms_the_samples_are_those_of_the_split() -> None:
    data = Numbers(batch_size=4)
    data.treatment = Treatment(variants=3)
    assert isinstance(data.samples("train"), Columns)
    loader = data.train_dataloader()
    loader.batches.set_epoch(5)
    assert sorted(i for batch in loader for i in batch["id"].tolist()) == [100 + i for i in range(N)]
