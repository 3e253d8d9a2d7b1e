"""Looking ahead over an accumulation window: exact gradients with ragged micro-batches, and exact resume."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch import Tensor, nn
from toy_stage import FEATURES, Squares, Vectors, batch_of, bind, net

from kdcore.binding import BoundLoss
from kdcore.cast import Cast
from kdcore.data.loader import Loader
from kdcore.distiller import Distiller
from kdcore.errors import RecipeError
from kdcore.losses.base import Total
from kdcore.signals import Batch, Signals
from kdcore.teachers import Frozen
from kdcore.window import WINDOW, StageData, Windowed

CPU = torch.device("cpu")
SIZES = (4, 7, 2, 5, 9, 3, 6)
"""Samples in each micro-batch: windows of three are 3 + 3 + 1."""


def ragged() -> list[Batch]:
    """Sequences (N, 5, 6) with 0 to 5 positions selected in each; one micro-batch has none at all."""
    batches = []
    for seed, n in enumerate(SIZES):
        generator = torch.Generator().manual_seed(seed)
        lengths = torch.randint(0, 6, (n, 1), generator=generator) * (seed != 4)
        x = torch.randn(n, 5, FEATURES, generator=generator, dtype=torch.float64)
        batches.append({"x": x, "mask": torch.arange(5) < lengths})
    return batches


class Listed:
    """A loader without length, sampler or state."""

    def __init__(self, batches: list[Batch]) -> None:
        self.batches = batches

    def __iter__(self) -> Iterator[Batch]:
        return (dict(batch) for batch in self.batches)


class Sized(Listed):
    def __len__(self) -> int:
        return len(self.batches)


class Ragged(pl.LightningDataModule):
    def __init__(self, loader: Any) -> None:
        super().__init__()
        self.loader = loader

    def train_dataloader(self) -> Any:
        return self.loader


class Second(Squares):
    """Another weighting, whose count is that of the batch's rows: known as well, and another."""

    def count(self, batch: Batch) -> Tensor | None:
        return torch.tensor(len(batch["x"]))

    def forward(self, student: Signals, teacher: Signals, batch: Batch, **roles: Any) -> Total:
        terms = (student["logits"] - teacher["logits"]).abs().sum((-1, -2))
        return Total(terms.sum(), torch.tensor(len(terms)))


def losses_of() -> list[BoundLoss]:
    return [bind(Squares(), name="squares", weight=0.7), bind(Second(), name="rows", weight=0.1)]


def trained(
    loader: Any, *, accumulate: int, look_ahead: bool = True, epochs: int = 2, limit: float | None = None
) -> nn.Module:
    """A student after training through Lightning, in double precision."""
    cast = Cast(Vectors(), {"student": net(1)}, {"teacher": Frozen(net(2))})
    losses = losses_of()
    distiller = Distiller(
        "distil",
        cast,
        losses=losses,
        scores={},
        teachers=("teacher",),
        optimizer=lambda groups: torch.optim.SGD(groups, lr=0.05),
        parameter_groups=lambda: [{"params": list(cast.trained["student"].parameters())}],
    )
    trainer = pl.Trainer(
        accelerator="cpu",
        precision="64-true",
        max_epochs=epochs,
        accumulate_grad_batches=accumulate,
        limit_train_batches=limit,
        limit_val_batches=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(distiller, datamodule=StageData(Ragged(loader), losses, look_ahead=look_ahead))
    return cast.trained["student"]


def by_hand(accumulate: int, epochs: int = 2, limit: int = len(SIZES)) -> nn.Module:
    """One big batch for each window."""
    student, teacher = net(1).double(), net(2).double()
    optimizer = torch.optim.SGD(student.parameters(), lr=0.05)
    batches = ragged()[:limit]
    for _ in range(epochs):
        for start in range(0, len(batches), accumulate):
            window = batches[start : start + accumulate]
            x, mask = (torch.cat([batch[key] for batch in window]) for key in ("x", "mask"))
            difference = student(x) - teacher(x).detach()
            squares = difference.square().sum(-1)[mask].sum() / max(int(mask.sum()), 1)
            rows = difference.abs().sum((-1, -2)).mean()
            optimizer.zero_grad()
            (0.7 * squares + 0.1 * rows).backward()
            optimizer.step()
    return student


def distance(one: nn.Module, other: nn.Module) -> float:
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    return max(float((a - b).abs().max()) for a, b in pairs)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("accumulate", [3, 2])
def test_a_window_has_the_gradient_of_one_big_batch(accumulate: int) -> None:
    """Also the short last one, and one with a micro-batch that selects nothing."""
    expected = by_hand(accumulate)
    assert distance(expected, net(1).double()) > 1e-2
    assert distance(trained(Sized(ragged()), accumulate=accumulate), expected) < 1e-12


@pytest.mark.filterwarnings("ignore")
def test_averaging_each_micro_batch_has_another() -> None:
    assert distance(trained(Sized(ragged()), accumulate=3, look_ahead=False), by_hand(3)) > 1e-3


@pytest.mark.filterwarnings("ignore")
def test_a_loader_without_length_is_exact_too() -> None:
    assert distance(trained(Listed(ragged()), accumulate=3), by_hand(3)) < 1e-12


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("limit", [6, 0.9])
def test_an_epoch_may_end_between_two_windows(limit: float) -> None:
    assert distance(trained(Sized(ragged()), accumulate=3, limit=limit), by_hand(3, limit=6)) < 1e-12


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("loader", "limit", "expected"),
    [
        (
            Sized,
            4,
            "trainer: an epoch ends after 4 of 7 batches, inside a window of 3 that make one update: it would be "
            "divided by the counts of all 3\n    set `limit_train_batches` or `overfit_batches` to a multiple of "
            "`accumulate_grad_batches`: 3 or 6$",
        ),
        (Sized, 0.3, "an epoch ends after 2 of 7 batches, inside .* a multiple of `accumulate_grad_batches`: 3$"),
        (Listed, 5, "an epoch ends after 5 batches, inside a window of 3"),
    ],
)
def test_an_epoch_that_ends_inside_a_window_is_refused(loader: Any, limit: float, expected: str) -> None:
    with pytest.raises(RecipeError, match=f"(?s){expected}"):
        trained(loader(ragged()), accumulate=3, limit=limit)


@pytest.mark.filterwarnings("ignore")
def test_it_may_where_counts_come_from_the_predictions() -> None:
    """Each micro-batch is averaged by itself, and whose others are left out changes nothing."""
    cut, short = Sized(ragged()), Sized(ragged()[:4])
    found = trained(cut, accumulate=3, look_ahead=False, limit=4)
    assert distance(found, trained(short, accumulate=3, look_ahead=False)) == 0


# --- the loader -------------------------------------------------------------------------------------------------------


def windowed(batches: Any, losses: list[BoundLoss], *, accumulate: int = 3, ranks: int = 1) -> Windowed:
    return Windowed(batches, losses, accumulate, CPU, ranks)


def test_every_micro_batch_is_told_the_counts_of_its_window() -> None:
    batches = ragged()
    found = list(windowed(batches, losses_of()))
    assert len(found) == len(batches)
    selected = [int(batch["mask"].sum()) for batch in batches]
    assert selected[4] == 0
    for i, batch in enumerate(found):
        window = slice(i // 3 * 3, i // 3 * 3 + 3)
        counts = {name: int(count) for name, count in batch[WINDOW].items()}
        assert counts == {"squares": sum(selected[window]), "rows": sum(SIZES[window])}
        assert batch["x"] is batches[i]["x"]
        assert WINDOW not in batches[i]


def test_a_count_that_one_batch_does_not_tell_is_left_out() -> None:
    batches = ragged()
    del batches[1]["mask"]
    found = [set(batch[WINDOW]) for batch in windowed(Sized(batches), losses_of())]
    assert found == [{"rows"}] * 3 + [{"squares", "rows"}] * 4


def test_no_known_count() -> None:
    batches = [{"x": batch["x"]} for batch in ragged()]
    assert all(batch[WINDOW] == {} for batch in windowed(Sized(batches), [bind(Squares())]))


def test_a_rebound_loss_lets_its_predictions_decide() -> None:
    losses = [bind(Squares(), name="tap", signal="tap.deep"), bind(Squares(), name="kd")]
    assert all(set(batch[WINDOW]) == {"kd"} for batch in windowed(Sized(ragged()), losses))


def test_counts_are_added_over_ranks_once_a_window(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[list[int]] = []

    def all_reduce(tensor: Tensor) -> None:
        sent.append(tensor.tolist())
        tensor.mul_(2)

    monkeypatch.setattr(torch.distributed, "all_reduce", all_reduce)
    found = list(windowed(Sized(ragged()), losses_of(), ranks=2))
    assert len(sent) == 3
    assert [int(found[0][WINDOW][name]) for name in ("squares", "rows")] == [2 * count for count in sent[0]]
    assert sent[0][1] == sum(SIZES[:3])


def test_it_reads_ahead_within_a_window_only() -> None:
    fetched: list[int] = []

    def batches() -> Iterator[Batch]:
        for i, batch in enumerate(ragged()):
            fetched.append(i)
            yield batch

    stream = iter(windowed(batches(), losses_of()))
    ahead = []
    for _ in range(4):
        next(stream)
        ahead.append(len(fetched))
    assert ahead == [3, 3, 3, 6]


def test_length_is_that_of_the_loader_below() -> None:
    assert len(windowed(Sized(ragged()), [])) == 7
    with pytest.raises(TypeError):
        len(windowed(Listed(ragged()), []))


def loader() -> Loader:
    n = 20
    rows = [{"id": i, "x": torch.full((FEATURES,), float(i))} for i in range(n)]
    return Loader(rows, batch_size=3, seed=5, shuffle=True)


def ids(batches: Any) -> list[list[int]]:
    return [batch["id"].tolist() for batch in batches]


@pytest.mark.parametrize("windows", [0, 1, 2])
def test_a_state_taken_between_windows_resumes_exactly(windows: int) -> None:
    below = loader()
    whole = windowed(below, losses_of())
    stream = iter(whole)
    for _ in range(3 * windows):
        next(stream)
    state = copy.deepcopy(whole.state_dict())
    rest = ids(stream)
    assert len(rest) == 7 - 3 * windows
    resumed = windowed(loader(), losses_of())
    resumed.load_state_dict(state)
    assert ids(resumed) == rest


def test_a_loader_without_state_has_none() -> None:
    whole = windowed(Sized(ragged()), losses_of())
    assert whole.state_dict() == {}
    whole.load_state_dict({})
    assert len(list(whole)) == 7


def test_lightning_finds_the_sampler_to_tell_the_epoch() -> None:
    below = loader()
    whole = windowed(below, losses_of())
    assert whole.batch_sampler is below.batch_sampler
    assert whole.sampler is below.sampler
    assert getattr(windowed(Sized([]), []), "sampler", None) is None
    first = ids(whole)
    whole.batch_sampler.sampler.set_epoch(1)
    assert ids(whole) != first


# --- the stage's data -------------------------------------------------------------------------------------------------


class FakeTrainer:
    def __init__(self, accumulate: int, world: int) -> None:
        self.accumulate_grad_batches, self.world_size = accumulate, world
        self.strategy = type("Strategy", (), {"root_device": CPU})()


@pytest.mark.parametrize(
    ("accumulate", "world", "look_ahead", "expected"),
    [(1, 1, True, False), (2, 1, True, True), (1, 2, True, True), (2, 2, False, False)],
)
def test_the_loader_is_windowed_where_that_changes_anything(
    accumulate: int, world: int, look_ahead: bool, expected: bool
) -> None:
    data = StageData(Ragged(Sized(ragged())), losses_of(), look_ahead=look_ahead)
    data.trainer = FakeTrainer(accumulate, world)
    assert isinstance(data.train_dataloader(), Windowed) is expected


def test_the_data_below_is_prepared_and_knows_the_trainer() -> None:
    told: list[Any] = []

    class Told(Ragged):
        def prepare_data(self) -> None:
            told.append("prepare_data")

        def setup(self, stage: str) -> None:
            told.append((stage, self.trainer))

        def val_dataloader(self) -> Any:
            return [batch_of()]

    data = StageData(Told(Sized([])), [], look_ahead=True)
    data.trainer = FakeTrainer(1, 1)
    data.prepare_data()
    data.setup("fit")
    assert told == ["prepare_data", ("fit", data.trainer)]
    assert len(data.val_dataloader()) == 1
