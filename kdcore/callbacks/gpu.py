"""Where the time of a step goes: step time, samples per second, memory, the teacher's share, waiting for data."""

from __future__ import annotations

import time
from collections import defaultdict, deque
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, cast

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback

SAMPLED = 8
"""Steps of an interval in which the teacher is timed; the others pay nothing for it."""

_NOTHING: AbstractContextManager[None] = nullcontext()


class Stopwatch:
    """Adds up the time spent in named parts of a step, on the device where that part runs.

    On CUDA it records pairs of events on the current stream, and reads those that are done; it never waits.
    Called with a name it is a context manager, which is what the Distiller puts around a teacher's forward.
    """

    def __init__(self, device: torch.device) -> None:
        self.armed = False
        self._cuda = device.type == "cuda"
        self._begun: dict[str, Any] = {}
        self._seconds: defaultdict[str, float] = defaultdict(float)
        self._events: deque[tuple[str, torch.cuda.Event, torch.cuda.Event]] = deque()

    def __call__(self, name: str) -> AbstractContextManager[None]:
        return self._around(name) if self.armed else _NOTHING

    @contextmanager
    def _around(self, name: str) -> Iterator[None]:
        self.start(name)
        try:
            yield
        finally:
            self.stop(name)

    def start(self, name: str) -> None:
        """Begin a part."""
        self._begun[name] = self._now()

    def stop(self, name: str) -> None:
        """End a part that was begun."""
        begun, now = self._begun.pop(name), self._now()
        if self._cuda:
            self._events.append((name, begun, now))
        else:
            self._seconds[name] += now - begun

    def take(self) -> dict[str, float]:
        """Seconds by part since the last call. On CUDA, what the device has not finished is left for the next call."""
        taken, self._seconds = self._seconds, defaultdict(float)
        while self._events and self._events[0][2].query():  # type: ignore[no-untyped-call]
            name, begun, ended = self._events.popleft()
            taken[name] += begun.elapsed_time(ended) / 1e3
        return dict(taken)

    def _now(self) -> Any:
        if not self._cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        return event


class GPU(Callback):
    """Logs, every few steps, how fast training goes and what it waits for. Works on a CPU too.

    Between log points a step pays for two readings of the clock; nothing waits for the device.

    - ``gpu/step_time_ms``: from one batch to the next; validation and the first step (compilation) are left out.
    - ``gpu/samples_per_s``: over all devices.
    - ``gpu/peak_memory_mb``: most memory allocated so far, in MiB; CUDA only.
    - ``gpu/teacher_share``: share of a step that frozen teachers take, in [0, 1]; timed in 8 steps of an interval.
    - ``gpu/data_wait_share``: share of the time between the end of a step and the start of the next one, in [0, 1]:
      waiting for the loader, and what other callbacks do there.

    Args:
        every: batches from one log point to the next.

    Raises:
        ValueError: ``every`` is not positive.
    """

    def __init__(self, *, every: int = 50) -> None:
        if every < 1:
            raise ValueError(f"every={every}: it is a number of batches, at least 1")
        self.every = every
        self.values: dict[str, float] = {}
        self._stride = max(1, every // SAMPLED)
        self._stopwatch = Stopwatch(torch.device("cpu"))
        self._device = torch.device("cpu")
        self._warm = False
        self._reset()

    def _reset(self) -> None:
        self._steps = self._samples = 0
        self._busy = self._waited = self._began = 0.0
        self._ended: float | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._device = trainer.strategy.root_device
        self._stopwatch = Stopwatch(self._device)
        self._warm = False
        self._reset()
        cast(Any, pl_module).teacher_timer = self._stopwatch

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._ended = None  # what passes between two epochs is no step

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._ended = time.perf_counter()

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if self._warm and self._steps % self._stride == 0:
            self._stopwatch.armed = True
            self._stopwatch.start("step")
        self._began = now = time.perf_counter()
        if self._ended is not None:
            self._waited += now - self._ended

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._ended = now = time.perf_counter()
        if not self._warm:
            self._warm = True
            return
        self._busy += now - self._began
        self._steps += 1
        self._samples += len(batch["id"])
        if self._stopwatch.armed:
            self._stopwatch.stop("step")
            self._stopwatch.armed = False
        if self._steps == self.every:
            self._log(trainer)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._steps:
            self._log(trainer)
        cast(Any, pl_module).teacher_timer = None

    def _log(self, trainer: pl.Trainer) -> None:
        total = max(self._busy + self._waited, 1e-9)
        self.values = {
            "gpu/step_time_ms": 1e3 * total / self._steps,
            "gpu/samples_per_s": self._samples * trainer.world_size / total,
            "gpu/data_wait_share": self._waited / total,
        }
        timed = self._stopwatch.take()
        if timed.get("step"):
            self.values["gpu/teacher_share"] = timed.get("teacher", 0.0) / timed["step"]
        if self._device.type == "cuda":
            self.values["gpu/peak_memory_mb"] = torch.cuda.max_memory_allocated(self._device) / 2**20
        for logger in trainer.loggers:
            logger.log_metrics(self.values, step=trainer.global_step)
        ended = time.perf_counter()
        self._reset()
        self._ended = ended  # so that the logging itself is not counted as waiting
