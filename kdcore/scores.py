"""The metrics of one model: filled batch by batch from what the task observes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn
from torchmetrics import Metric

from kdcore.errors import RunError
from kdcore.signals import Batch, Signals
from kdcore.task import Task


class Scores(nn.Module):
    """Metrics by log name; each says what it ``takes`` and gets that from ``Task.observe``.

    Metrics that take a teacher stay empty, and are left out of :meth:`compute`, where there is none.
    """

    def __init__(self, metrics: Mapping[str, Metric]) -> None:
        super().__init__()
        self.metrics = nn.ModuleDict(dict(metrics))

    @property
    def need_teacher(self) -> bool:
        """Whether any metric compares the student with its teacher."""
        return self.compares or any(takes(metric) == "student_teacher" for metric in self.metrics.values())

    @property
    def compares(self) -> bool:
        """Whether any metric reads the teacher where there is one, and does without where there is none."""
        return any(getattr(metric, "compares", False) for metric in self.metrics.values())

    def update(self, task: Task, student: Signals, teachers: Mapping[str, Signals], batch: Batch) -> None:
        """Add one batch.

        Raises:
            RunError: a metric takes something that the task does not observe in this batch.
        """
        observed = task.observe(student, teachers, batch)
        for name, metric in self.metrics.items():
            if takes(metric) in observed:
                cast(Metric, metric).update(*observed[takes(metric)])
            elif takes(metric) != "student_teacher":
                raise RunError(
                    f"metric `{name}` takes `{takes(metric)}`, and of this batch the task observes "
                    f"{', '.join(sorted(observed)) or 'nothing'}: are there labels in this split?"
                )

    def compute(self) -> dict[str, float]:
        """The value of every metric that has seen data (reads the device), then start again.

        Raises:
            RunError: a metric gives something else than one number.
        """
        values = {
            name: cast(Metric, metric).compute()
            for name, metric in self.metrics.items()
            if cast(Metric, metric).update_called
        }
        self.reset()
        for name, value in values.items():
            if not isinstance(value, Tensor) or value.numel() != 1:
                kind = f"{tuple(value.shape)} values" if isinstance(value, Tensor) else f"a {type(value).__name__}"
                raise RunError(f"metric `{name}` gives {kind}; a metric gives one number, so make one for each")
        return {name: float(value) for name, value in values.items()}

    def per_sample(
        self, name: str, task: Task, student: Signals, teachers: Mapping[str, Signals], batch: Batch
    ) -> Tensor | None:
        """What each sample adds, where the metric of this name offers it.

        ``scores``, one value a sample (N,), or where the metric is no mean over samples ``shares`` (N, ...), of whose
        sum :meth:`value_of` makes the metric.
        """
        metric = self._named(name)
        each = getattr(metric, "scores", None) or getattr(metric, "shares", None)
        if each is None:
            return None
        observed, taken = task.observe(student, teachers, batch), takes(metric)
        return cast(Tensor, each(*observed[taken])) if taken in observed else None

    def value_of(self, name: str) -> Callable[[Tensor], Tensor] | None:
        """What makes the metric of this name from a sum of ``shares``; ``None`` where it gives scores or nothing."""
        metric = self._named(name)
        return None if hasattr(metric, "scores") else getattr(metric, "value_of", None)

    def _named(self, name: str) -> Metric | None:
        return next((cast(Metric, metric) for key, metric in self.metrics.items() if key == name), None)

    def reset(self) -> None:
        """Forget everything."""
        for metric in self.metrics.values():
            cast(Metric, metric).reset()


def takes(metric: Any) -> str:
    """What a metric takes: ``preds_target`` or ``student_teacher``, or what a plugin's task calls it."""
    return str(metric.takes)


@torch.no_grad()
def to_device(batch: Any, device: torch.device) -> Any:
    """A batch, and everything nested in it, on a device."""
    if isinstance(batch, Tensor):
        return batch.to(device, non_blocking=True)
    if isinstance(batch, dict):
        return {key: to_device(value, device) for key, value in batch.items()}
    if isinstance(batch, list | tuple):
        moved = [to_device(value, device) for value in batch]
        return type(batch)(*moved) if hasattr(batch, "_fields") else type(batch)(moved)
    return batch
