from __future__ import annotations

import io
import re
from types import SimpleNamespace
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from kdcore.callbacks.progress import Progress, _clock, _number, _rate

torch.set_num_threads(1)


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True

    @property
    def drawn(self) -> list[str]:
        """Every state that the line had."""
        return [line.removesuffix("\x1b[K") for line in re.split(r"[\r\n]+", self.getvalue()) if line]


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


class Module(pl.LightningModule):
    """A stage named `distil` whose steps take a second; the accuracy of each validation is given."""

    stage_name = "distil"
    monitored = "distil/val/accuracy"

    def __init__(self, clock: Clock, accuracies: list[float], *, mode: str = "max", step: float = 1.0) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 1)
        self.clock, self.accuracies, self.step = clock, list(accuracies), step
        self.task = SimpleNamespace(primary=("accuracy", mode))
        self.loss_read = 0

    def running_loss(self) -> float:
        self.loss_read += 1
        return 0.4123

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        self.clock.now += self.step
        return torch.as_tensor(self.layer(batch["x"]).sum())

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        self.clock.now += 30.0

    def on_validation_epoch_end(self) -> None:
        if self.accuracies:
            self.log(self.monitored, self.accuracies.pop(0))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(module: Module, stream: io.StringIO, *, batches: int = 4, epochs: int = 3, **settings: Any) -> Progress:
    progress = Progress(stream)
    data = [{"id": torch.arange(50), "x": torch.ones(50, 2)}] * batches
    trainer = pl.Trainer(
        **{"max_epochs": epochs, "num_sanity_val_steps": 0, **settings}, accelerator="cpu", logger=False,
        callbacks=[progress], enable_checkpointing=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(module, DataLoader(data, batch_size=None), DataLoader(data[:2], batch_size=None))  # type: ignore[arg-type]
    return progress


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("kdcore.callbacks.progress.time.perf_counter", clock)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "200")
    return clock


def test_outside_a_terminal_there_is_one_line_for_each_validation(clock: Clock) -> None:
    stream = io.StringIO()
    fit(Module(clock, [0.5, 0.75, 0.7]), stream)
    # 4 steps of 1 s and 2 validation batches of 30 s an epoch; 50 samples a second while training
    assert stream.getvalue().splitlines() == [
        "distil  epoch 1/3  loss 0.412  val accuracy 0.500 (best 0.500)  50 samples/s  2:08 left",
        "distil  epoch 2/3  loss 0.412  val accuracy 0.750 (best 0.750)  50 samples/s  1:04 left",
        "distil  epoch 3/3  loss 0.412  val accuracy 0.700 (best 0.750)  50 samples/s",
    ]


def test_where_less_is_better_the_best_is_the_least(clock: Clock) -> None:
    stream = io.StringIO()
    fit(Module(clock, [0.5, 0.75, 0.7], mode="min"), stream)
    assert "val accuracy 0.700 (best 0.500)" in stream.getvalue().splitlines()[-1]


def test_in_a_terminal_the_line_is_redrawn_and_stays_at_the_end(clock: Clock) -> None:
    stream = Terminal()
    fit(Module(clock, [0.5, 0.75, 0.7]), stream)
    assert stream.drawn[0] == "distil  epoch 1/3  loss 0.412  50 samples/s  0:11 left"
    assert "distil  epoch 1/3  loss 0.412  50 samples/s  validating, batch 2" in stream.drawn
    last = "distil  epoch 3/3  loss 0.412  val accuracy 0.700 (best 0.750)  50 samples/s  in 3:12"
    assert stream.drawn[-1] == last
    assert stream.getvalue().endswith(f"\r{last}\x1b[K\n")
    assert stream.getvalue().count("\n") == 1


def test_the_line_is_drawn_ten_times_a_second_and_the_loss_read_twice(clock: Clock) -> None:
    stream = Terminal()
    module = Module(clock, [0.5], step=0.004)
    fit(module, stream, batches=500, epochs=1)  # two seconds
    assert 18 <= len(stream.drawn) <= 25
    assert 3 <= module.loss_read <= 6


def test_outside_a_terminal_the_loss_is_read_twice_a_second_too(clock: Clock) -> None:
    module = Module(clock, [0.5], step=0.004)
    fit(module, io.StringIO(), batches=500, epochs=1)
    assert 3 <= module.loss_read <= 6


def test_short_epochs_still_show_a_loss(clock: Clock) -> None:
    stream = io.StringIO()
    fit(Module(clock, [0.5, 0.6], step=0.001), stream, epochs=2)
    assert all("loss 0.412" in line for line in stream.getvalue().splitlines())


def test_a_long_line_is_cut_to_the_terminal(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "31")
    stream = Terminal()
    fit(Module(clock, [0.5]), stream, epochs=1)
    assert stream.drawn[-1] == "distil  epoch 1/1  loss 0.412 "
    assert max(len(line) for line in stream.drawn) == 30


def test_a_dumb_terminal_gets_plain_lines(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    stream = Terminal()
    fit(Module(clock, [0.5, 0.6, 0.7]), stream)
    assert stream.getvalue().count("\n") == 3
    assert "\r" not in stream.getvalue()


@pytest.mark.parametrize(
    ("settings", "position"),
    [
        ({"max_epochs": -1, "max_steps": 5}, "step 4/5"),
        ({"max_epochs": 2, "max_steps": 5}, "epoch 1/2"),
    ],
)
def test_the_position_is_in_what_limits_the_stage(clock: Clock, settings: dict[str, Any], position: str) -> None:
    stream = io.StringIO()
    fit(Module(clock, [0.5, 0.6]), stream, **settings)
    assert f"distil  {position}  " in stream.getvalue().splitlines()[0]


def test_without_a_metric_nothing_is_claimed(clock: Clock) -> None:
    stream = io.StringIO()
    fit(Module(clock, []), stream)
    assert stream.getvalue() == ""


@pytest.mark.parametrize("stream", [io.StringIO(), Terminal()], ids=["plain", "terminal"])
def test_a_disabled_line_writes_nothing(clock: Clock, stream: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pl.Trainer, "is_global_zero", False)
    module = Module(clock, [0.5])
    progress = fit(module, stream, epochs=1)
    assert stream.getvalue() == ""
    assert module.loss_read == 0
    progress.enable()
    progress._write("again")
    assert stream.getvalue() == ("\ragain\x1b[K" if stream.isatty() else "")


def test_the_sanity_check_is_no_validation(clock: Clock) -> None:
    stream = io.StringIO()
    fit(Module(clock, [0.1, 0.5]), stream, epochs=1, num_sanity_val_steps=1)
    assert "val accuracy 0.500 (best 0.500)" in stream.getvalue()
    assert stream.getvalue().count("\n") == 1


def test_a_second_stage_forgets_the_first(clock: Clock) -> None:
    stream = io.StringIO()
    fit(Module(clock, [0.9]), stream, epochs=1)
    progress = fit(Module(clock, [0.3]), stream, epochs=1)
    assert "(best 0.300)" in stream.getvalue().splitlines()[1]
    progress._start(0.0)
    assert progress._best is None


def test_a_failure_ends_the_line(clock: Clock) -> None:
    stream = Terminal()
    module = Module(clock, [0.5])

    def fail(batch: Any, batch_idx: int) -> Tensor:
        if batch_idx == 2:
            raise RuntimeError("no")
        return Module.training_step(module, batch, batch_idx)

    module.training_step = fail  # type: ignore[method-assign]
    with pytest.raises(RuntimeError):
        fit(module, stream)
    assert stream.getvalue().endswith("left\x1b[K\n")


def test_printing_clears_the_line_first(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    stream = Terminal()
    Progress(stream).print("hello")
    assert stream.getvalue() == "\r\x1b[K"
    assert capsys.readouterr().out == "hello\n"


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (_clock(32.4), "0:32"), (_clock(725), "12:05"), (_clock(11_099), "3:04:59"), (_clock(59.7), "1:00"),
        (_rate(12.3), "12"), (_rate(999), "999"), (_rate(1200), "1.2k"), (_rate(12_345), "12k"), (_rate(1e5), "100k"),
        (_number(0.41234), "0.412"), (_number(12.3456), "12.346"), (_number(12_345.6), "1.235e+04"),
    ],
)  # fmt: skip
def test_numbers_are_short(shown: str, expected: str) -> None:
    assert shown == expected
