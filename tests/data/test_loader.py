"""The loader: exact global batches on every rank, an order from (seed, epoch), and exact resume under Lightning."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from torch import Tensor, nn
from torch.utils.data import Subset

from kdcore.data.arrays import Columns
from kdcore.data.loader import EpochBatches, Loader, fetch

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def columns(n: int) -> Columns:
    return Columns({"id": torch.arange(n), "x": torch.arange(n).float().view(n, 1)})


class Single:
    """Gives one sample at a time, and insists on plain integers as a dict of paths would."""

    def __init__(self, n: int) -> None:
        self.n = n

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, index: int) -> dict[str, Any]:
        assert type(index) is int
        return {"id": index, "x": torch.tensor([float(index)])}


def ids(loader: Loader) -> list[list[int]]:
    return [batch["id"].tolist() for batch in loader]


def epoch_ids(loader: Loader, epoch: int) -> list[list[int]]:
    loader.batches.set_epoch(epoch)
    return ids(loader)


# --- EpochBatches -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("world", [1, 2, 3, 4])
@pytest.mark.parametrize(("n", "batch_size"), [(12, 4), (13, 4), (14, 4), (15, 4), (16, 4), (4, 4), (5, 8), (4, 100)])
@pytest.mark.parametrize("shuffle", [False, True])
def test_ranks_together_see_each_sample_once_and_the_same_batches(
    n: int, batch_size: int, world: int, shuffle: bool
) -> None:
    ranks = [list(EpochBatches(n, batch_size, seed=5, shuffle=shuffle, rank=r, world=world)) for r in range(world)]
    sampler = EpochBatches(n, batch_size, seed=5, shuffle=shuffle, world=world)
    assert {len(rank) for rank in ranks} == {len(sampler)}
    assert all(part for rank in ranks for part in rank), "a rank was left without a sample"
    order = sampler.order().tolist()
    start = 0
    for parts in zip(*ranks, strict=True):
        whole = order[start : start + sum(map(len, parts))]
        assert [whole[r::world] for r in range(world)] == list(parts)
        start += len(whole)
    assert start == n
    assert sorted(order) == list(range(n))


def test_one_process_keeps_a_short_last_batch() -> None:
    assert list(EpochBatches(5, 2)) == [[0, 1], [2, 3], [4]]


def test_a_last_batch_smaller_than_the_ranks_joins_the_one_before_it() -> None:
    assert [list(EpochBatches(9, 4, rank=r, world=2)) for r in range(2)] == [[[0, 2], [4, 6, 8]], [[1, 3], [5, 7]]]


@pytest.mark.parametrize(
    ("n", "batch_size", "world", "message"),
    [
        (10, 0, 1, r"batch_size=0 for 1 process: it counts the samples of all processes together, so give at least 1"),
        (10, 2, 4, r"batch_size=2 for 4 processes: .*give at least 4"),
        (3, 8, 4, r"3 samples cannot be divided over 4 processes"),
        (0, 8, 1, r"0 samples cannot be divided over 1 process$"),
    ],
)
def test_too_few_samples_for_the_ranks_is_refused(n: int, batch_size: int, world: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EpochBatches(n, batch_size, world=world)


def test_the_order_is_a_pure_function_of_seed_and_epoch() -> None:
    orders = {}
    for seed in range(3):
        for epoch in range(3):
            sampler = EpochBatches(100, 7, seed=seed, shuffle=True)
            sampler.set_epoch(epoch)
            orders[seed, epoch] = tuple(sampler.order().tolist())
            torch.rand(3)  # whatever others draw in between
            assert tuple(sampler.order().tolist()) == orders[seed, epoch]
    assert len(set(orders.values())) == 9


def test_without_shuffling_epoch_and_seed_change_nothing() -> None:
    sampler = EpochBatches(4, 2, seed=9)
    sampler.set_epoch(3)
    assert list(sampler) == [[0, 1], [2, 3]]


# --- Loader -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "dataset", [columns(10), Single(10), Subset(columns(20), range(10)), Subset(Single(20), range(10))]
)
def test_every_kind_of_dataset_gives_the_same_batches(dataset: Any) -> None:
    batches = list(Loader(dataset, batch_size=4, seed=1, shuffle=True))
    expected = list(EpochBatches(10, 4, seed=1, shuffle=True))
    assert [batch["id"].tolist() for batch in batches] == expected
    for batch in batches:
        assert set(batch) == {"id", "x"}
        assert torch.equal(batch["x"], batch["id"].float().view(-1, 1))


def test_single_samples_go_through_the_given_collate() -> None:
    loader = Loader(Single(3), batch_size=2, collate=lambda samples: {"count": len(samples)})
    assert list(loader) == [{"count": 2}, {"count": 1}]


def test_a_finished_batch_is_not_collated() -> None:
    def collate(samples: list[Any]) -> dict[str, Any]:
        raise AssertionError("collated")

    assert [len(batch["id"]) for batch in Loader(columns(3), batch_size=2, collate=collate)] == [2, 1]


def test_each_plain_iteration_starts_at_the_beginning() -> None:
    loader = Loader(columns(10), batch_size=4, seed=1, shuffle=True)
    first = ids(loader)
    assert ids(loader) == first
    next(iter(loader))
    assert ids(loader) == first


def test_the_epoch_may_be_set_after_the_iterator_was_asked_for() -> None:
    expected = epoch_ids(Loader(columns(10), batch_size=4, shuffle=True), 3)
    loader = Loader(columns(10), batch_size=4, shuffle=True)
    iterator = iter(loader)
    loader.batches.set_epoch(3)
    assert [batch["id"].tolist() for batch in iterator] == expected


@pytest.mark.parametrize("taken", [0, 1, 2, 3])
@pytest.mark.parametrize("epoch", [0, 2])
def test_a_state_goes_on_after_the_last_batch_handed_out(taken: int, epoch: int) -> None:
    whole = Loader(columns(10), batch_size=4, seed=1, shuffle=True)
    expected = epoch_ids(whole, epoch)
    iterator = iter(whole)
    for _ in range(taken):
        next(iterator)
    if taken == 0:
        whole.batches.seek(epoch, 0)
    state = whole.state_dict()
    assert state == {"epoch": epoch, "batches": taken}

    resumed = Loader(columns(10), batch_size=4, seed=1, shuffle=True)
    resumed.load_state_dict(state)
    assert resumed.state_dict() == state, "a state taken before the first batch is the one that was loaded"
    assert len(resumed) == 3, "Lightning counts from the start of the epoch"
    resumed.batches.set_epoch(epoch)
    assert ids(resumed) == expected[taken:]
    assert ids(resumed) == expected, "the next iteration is a whole one"


def test_another_epoch_starts_at_its_first_batch() -> None:
    loader = Loader(columns(10), batch_size=4, seed=1, shuffle=True)
    loader.load_state_dict({"epoch": 0, "batches": 2})
    assert epoch_ids(loader, 1) == epoch_ids(Loader(columns(10), batch_size=4, seed=1, shuffle=True), 1)
    loader.batches.set_epoch(2)
    assert loader.state_dict() == {"epoch": 2, "batches": 0}


def test_a_state_of_other_data_is_refused() -> None:
    with pytest.raises(ValueError, match=r"after 40 batches of an epoch, but an epoch has only 3 now: .*`batch_size`"):
        Loader(columns(10), batch_size=4).load_state_dict({"epoch": 0, "batches": 40})


@pytest.mark.parametrize("dataset", [columns(10), Single(10)])
def test_iterating_leaves_every_global_random_state_alone(dataset: Any) -> None:
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    loader = Loader(dataset, batch_size=4, shuffle=True)
    for epoch in range(2):
        epoch_ids(loader, epoch)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before[1:]


@pytest.mark.slow
@pytest.mark.parametrize("dataset", [columns(11), Single(11)])
def test_workers_give_the_same_batches_resume_and_leave_the_random_state_alone(dataset: Any) -> None:
    plain = Loader(dataset, batch_size=2, seed=1, shuffle=True)
    loader = Loader(dataset, batch_size=2, seed=1, shuffle=True, workers=2)
    before = torch.get_rng_state()
    for epoch in (0, 1, 4):
        assert epoch_ids(loader, epoch) == epoch_ids(plain, epoch)
    iterator = iter(loader)
    next(iterator)
    next(iterator)
    # workers have read ahead by now; the state must not
    assert loader.state_dict() == {"epoch": 4, "batches": 2}
    loader.load_state_dict(loader.state_dict())
    assert ids(loader) == epoch_ids(plain, 4)[2:]
    assert torch.equal(torch.get_rng_state(), before)


# --- under Lightning --------------------------------------------------------------------------------------------------


class Recorder(LightningModule):
    """Trains a single weight and writes down the ids of every batch; ``stop_after`` raises like a killed process."""

    def __init__(self, stop_after: int | None = None) -> None:
        super().__init__()
        self.weight = nn.Linear(1, 1, bias=False)
        nn.init.constant_(self.weight.weight, 0.5)
        self.seen: list[list[int]] = []
        self.stop_after = stop_after

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        if self.stop_after is not None and len(self.seen) == self.stop_after:
            raise KeyError("killed")
        self.seen.append(batch["id"].tolist())
        loss: Tensor = (self.weight(batch["x"] / 10) - batch["x"]).square().mean()
        return loss

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        return None

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), 0.01)


def trainer(folder: Path, *callbacks: Callback, max_epochs: int = 3, **options: Any) -> Trainer:
    return Trainer(
        max_epochs=max_epochs, accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        default_root_dir=folder, callbacks=list(callbacks), enable_checkpointing=bool(callbacks), **options,
    )  # fmt: skip


def loader(workers: int = 0) -> Loader:
    return Loader(columns(11), batch_size=2, seed=1, shuffle=True, workers=workers)


def uninterrupted(folder: Path, **options: Any) -> Recorder:
    module = Recorder()
    trainer(folder, **options).fit(module, loader(), Loader(columns(3), batch_size=2))
    return module


def killed_then_resumed(
    folder: Path, after: int, checkpoint: Callback, *, workers: int = 0, **options: Any
) -> tuple[Recorder, int]:
    """The second run, and how many batches the first had trained on when its last checkpoint was taken."""
    first, validation = Recorder(stop_after=after), Loader(columns(3), batch_size=2)
    with pytest.raises(KeyError, match="killed"):
        trainer(folder, checkpoint, **options).fit(first, loader(workers), validation)
    path = folder / "last.ckpt"
    second = Recorder()
    trainer(folder, **options).fit(second, loader(workers), validation, ckpt_path=path, weights_only=True)
    return second, torch.load(path, weights_only=True)["global_step"]


def saving(folder: Path, **options: Any) -> ModelCheckpoint:
    return ModelCheckpoint(dirpath=folder, filename="last", enable_version_counter=False, **options)


@pytest.mark.parametrize("after", [1, 2, 5, 6, 7, 11, 12, 13, 17])
def test_a_run_killed_at_any_step_goes_on_with_the_very_next_batch(tmp_path: Path, after: int) -> None:
    whole = uninterrupted(tmp_path)
    assert len(whole.seen) == 18
    resumed, done = killed_then_resumed(tmp_path, after, saving(tmp_path, every_n_train_steps=1))
    assert done == after
    assert resumed.seen == whole.seen[after:]
    for a, b in zip(resumed.parameters(), whole.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("on_train_epoch_end", [False, True])
@pytest.mark.parametrize("after", [6, 8, 12, 16])
def test_a_checkpoint_at_the_end_of_an_epoch_resumes_with_the_next(
    tmp_path: Path, after: int, on_train_epoch_end: bool
) -> None:
    whole = uninterrupted(tmp_path)
    checkpoint = saving(tmp_path, every_n_epochs=1, save_on_train_epoch_end=on_train_epoch_end)
    resumed, done = killed_then_resumed(tmp_path, after, checkpoint)
    assert done == after // 6 * 6
    assert resumed.seen == whole.seen[done:]


@pytest.mark.parametrize("after", [3, 4, 5, 8, 9])
def test_epochs_cut_short_resume_too(tmp_path: Path, after: int) -> None:
    whole = uninterrupted(tmp_path, limit_train_batches=4)
    assert len(whole.seen) == 12
    resumed, _ = killed_then_resumed(tmp_path, after, saving(tmp_path, every_n_train_steps=1), limit_train_batches=4)
    assert resumed.seen == whole.seen[after:]


def test_a_checkpoint_in_the_middle_of_an_epoch_with_validation(tmp_path: Path) -> None:
    whole = uninterrupted(tmp_path, val_check_interval=2)
    checkpoint = saving(tmp_path, every_n_epochs=1, save_on_train_epoch_end=False)
    resumed, done = killed_then_resumed(tmp_path, 9, checkpoint, val_check_interval=2)
    assert done == 8
    assert resumed.seen == whole.seen[8:]


@pytest.mark.parametrize(("after", "done"), [(3, 2), (5, 4), (6, 6), (9, 8)])
def test_accumulated_gradients_resume_at_the_edge_of_a_window(tmp_path: Path, after: int, done: int) -> None:
    whole = uninterrupted(tmp_path, accumulate_grad_batches=2)
    checkpoint = saving(tmp_path, every_n_train_steps=1)
    resumed, steps = killed_then_resumed(tmp_path, after, checkpoint, accumulate_grad_batches=2)
    assert 2 * steps == done
    assert resumed.seen == whole.seen[done:]
    for a, b in zip(resumed.parameters(), whole.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.slow
@pytest.mark.parametrize("after", [4, 6, 9])
def test_workers_resume_too(tmp_path: Path, after: int) -> None:
    whole = uninterrupted(tmp_path)
    resumed, _ = killed_then_resumed(tmp_path, after, saving(tmp_path, every_n_train_steps=1), workers=2)
    assert resumed.seen == whole.seen[after:]


def test_every_epoch_of_a_run_has_its_own_order(tmp_path: Path) -> None:
    seen = uninterrupted(tmp_path).seen
    epochs = [[row for batch in seen[start : start + 6] for row in batch] for start in (0, 6, 12)]
    assert all(sorted(epoch) == list(range(11)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert seen[6:12] == epoch_ids(loader(), 1)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("rows", [[2, 0], [1]])
def test_rows_are_fetched_as_the_data_gives_them(rows: list[int]) -> None:
    index = torch.tensor(rows)
    batch = fetch(columns(3), index)
    assert isinstance(batch, dict)
    assert batch["id"].tolist() == rows
    singles = fetch([{"id": i} for i in range(3)], index)
    assert singles == [{"id": i} for i in rows]
