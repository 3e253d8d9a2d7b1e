from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.loggers.logger import DummyLogger
from torch import Tensor, nn
from torch.utils.data import DataLoader

from kdcore.callbacks.gpu import GPU, Stopwatch

torch.set_num_threads(1)
CPU = torch.device("cpu")


class Clock:
    """A clock that moves only when it is told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

    def wait(self, seconds: float) -> None:
        self.now += seconds


class Log(DummyLogger):
    def __init__(self) -> None:
        super().__init__()
        self.logged: list[tuple[int | None, dict[str, float]]] = []

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        if any(name.startswith("gpu/") for name in metrics):
            self.logged.append((step, metrics))


class Data(torch.utils.data.IterableDataset[dict[str, Tensor]]):
    """Batches of four, each of which takes a while to come."""

    def __init__(self, clock: Clock, batches: int, wait: float) -> None:
        self.clock, self.batches, self.wait = clock, batches, wait

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        for _ in range(self.batches):
            self.clock.wait(self.wait)
            yield {"id": torch.arange(4), "x": torch.ones(4, 2)}


class Module(pl.LightningModule):
    """A step of which a given part goes to the teacher."""

    def __init__(self, clock: Clock, teacher: float, student: float) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 1)
        self.clock, self.teacher, self.student = clock, teacher, student
        self.teacher_timer: Any = None
        self.timers: list[Any] = []

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        self.timers.append(self.teacher_timer)
        with self.teacher_timer("teacher"):
            self.clock.wait(self.teacher)
        self.clock.wait(self.student)
        return torch.as_tensor(self.layer(batch["x"]).sum())

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        self.clock.wait(50.0)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(
    clock: Clock,
    callback: GPU,
    *,
    batches: int,
    epochs: int = 1,
    wait: float = 0.01,
    validate: bool = False,
    **settings: Any,
) -> tuple[Module, list[tuple[int | None, dict[str, float]]]]:
    log, module = Log(), Module(clock, teacher=0.02, student=0.03)
    trainer = pl.Trainer(
        max_epochs=epochs, accelerator="cpu", logger=log, callbacks=[callback], enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0, **settings,
    )  # fmt: skip
    loaders = [DataLoader(Data(clock, count, wait), batch_size=None) for count in (batches, 2)]
    trainer.fit(module, loaders[0], loaders[1] if validate else None)
    return module, log.logged


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("kdcore.callbacks.gpu.time.perf_counter", clock)
    return clock


def test_logs_where_the_time_goes_at_log_points_only(clock: Clock) -> None:
    _, logged = fit(clock, GPU(every=10), batches=31)
    assert [step for step, _ in logged] == [11, 21, 31]  # the first step is not counted
    for _, values in logged[:2]:
        assert values == {
            "gpu/step_time_ms": pytest.approx(60.0),
            "gpu/samples_per_s": pytest.approx(4 / 0.06),
            "gpu/data_wait_share": pytest.approx(1 / 6),
            "gpu/teacher_share": pytest.approx(2 / 5),
        }


def test_what_is_left_at_the_end_is_logged_too(clock: Clock) -> None:
    callback = GPU(every=50)
    _, logged = fit(clock, callback, batches=8)
    assert len(logged) == 1
    assert logged[0][1] == callback.values
    assert callback.values["gpu/step_time_ms"] == pytest.approx(60.0, rel=0.05)


def test_a_single_step_has_nothing_to_say(clock: Clock) -> None:
    assert fit(clock, GPU(), batches=1)[1] == []


@pytest.mark.parametrize("settings", [{}, {"val_check_interval": 3}])
def test_validation_is_neither_a_step_nor_waiting(clock: Clock, settings: dict[str, Any]) -> None:
    _, logged = fit(clock, GPU(every=10), batches=6, epochs=4, validate=True, **settings)
    assert len(logged) == 3
    for _, values in logged:
        assert values["gpu/step_time_ms"] < 61
        assert values["gpu/data_wait_share"] <= 1 / 6 + 1e-9


def test_the_logging_itself_is_not_waiting(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    def slow(*args: Any, **kwargs: Any) -> None:
        clock.wait(30.0)

    monkeypatch.setattr(Log, "log_metrics", slow)
    callback = GPU(every=5)
    fit(clock, callback, batches=11)
    assert callback.values["gpu/data_wait_share"] <= 1 / 6 + 1e-9


@pytest.mark.parametrize(("every", "timed"), [(80, 8), (8, 8), (3, 3)])
def test_the_teacher_is_timed_in_a_few_steps_of_an_interval(
    clock: Clock, monkeypatch: pytest.MonkeyPatch, every: int, timed: int
) -> None:
    begun: list[str] = []
    start = Stopwatch.start
    monkeypatch.setattr(Stopwatch, "start", lambda self, name: (begun.append(name), start(self, name))[1])
    fit(clock, GPU(every=every), batches=every + 1)
    assert begun == ["step", "teacher"] * timed


def test_the_module_gets_the_stopwatch_and_loses_it(clock: Clock) -> None:
    module, _ = fit(clock, GPU(), batches=2)
    assert all(isinstance(timer, Stopwatch) for timer in module.timers)
    assert module.teacher_timer is None


def test_a_second_stage_starts_anew(clock: Clock) -> None:
    callback = GPU(every=4)
    fit(clock, callback, batches=4)
    clock.wait(1000.0)
    _, logged = fit(clock, callback, batches=5)
    assert [values["gpu/step_time_ms"] for _, values in logged] == [pytest.approx(60.0, rel=0.05)]


@pytest.mark.parametrize("every", [0, -3])
def test_every_must_be_positive(every: int) -> None:
    with pytest.raises(ValueError, match=f"every={every}: it is a number of batches, at least 1"):
        GPU(every=every)


def test_a_disarmed_stopwatch_costs_and_counts_nothing() -> None:
    stopwatch = Stopwatch(CPU)
    with stopwatch("teacher"):
        time.sleep(0.001)
    assert stopwatch("a") is stopwatch("b")  # nothing is made
    assert stopwatch.take() == {}


def test_a_stopwatch_adds_up_and_starts_anew(clock: Clock) -> None:
    stopwatch = Stopwatch(CPU)
    stopwatch.armed = True
    for seconds in (1.0, 2.0):
        with stopwatch("teacher"):
            clock.wait(seconds)
    stopwatch.start("step")
    with suppress(RuntimeError), stopwatch("teacher"):  # a step that fails ends its part
        clock.wait(0.5)
        raise RuntimeError
    stopwatch.stop("step")
    assert stopwatch.take() == {"teacher": 3.5, "step": 0.5}
    assert stopwatch.take() == {}


class Event:
    """Stands for a CUDA event: its time, and whether the device has come to it."""

    device_time = 0.0
    reached = 0.0

    def __init__(self, enable_timing: bool) -> None:
        assert enable_timing

    def record(self) -> None:
        self.time = Event.device_time

    def query(self) -> bool:
        return self.time <= Event.reached

    def elapsed_time(self, other: Event) -> float:
        return 1e3 * (other.time - self.time)


def test_on_cuda_events_are_read_when_done_and_never_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "Event", Event)
    stopwatch = Stopwatch(torch.device("cuda"))
    stopwatch.armed = True
    for end in (1.0, 4.0, 9.0):
        with stopwatch("teacher"):
            Event.device_time = end
    Event.reached = 4.0
    assert stopwatch.take() == {"teacher": 4.0}
    assert stopwatch.take() == {}
    Event.reached = 9.0
    assert stopwatch.take() == {"teacher": 5.0}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_the_stopwatch_measures_the_device() -> None:
    stopwatch = Stopwatch(torch.device("cuda"))
    stopwatch.armed = True
    x = torch.randn(2048, 2048, device="cuda")
    with stopwatch("teacher"):
        for _ in range(20):
            x = (x @ x).tanh()
    torch.cuda.synchronize()
    assert 0 < stopwatch.take()["teacher"] < 5
