"""The losses since the last log point, added up on the device without reading it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from kdcore.errors import RunError


class Running:
    """Each loss's sum and count over the steps since the last :meth:`flush`: shown is what is trained on.

    Plain tensors, not buffers: weight averaging would average them, DDP would send them in every step, and a precision
    of bfloat16 would round them.

    Attributes:
        names: of the losses, once the first step has told them.
        bad: float32 scalar, 1 as soon as one of them is not a finite number on any rank, else 0; an optimizer that is
            given it as ``found_inf`` skips its updates from then on.
    """

    def __init__(self) -> None:
        self.names: tuple[str, ...] = ()
        self.steps = 0
        self.bad = torch.zeros((), dtype=torch.float32)
        self._sums = torch.zeros(0, dtype=torch.float32)
        self._counts = torch.zeros(0, dtype=torch.int64)
        self._last = 0.0

    def start(self, device: torch.device) -> None:
        """Go to the device, before the first step."""
        self.bad, self._sums, self._counts = (one.to(device) for one in (self.bad, self._sums, self._counts))

    def add(self, names: Sequence[str], sums: Tensor, counts: Tensor, ranks: int = 1) -> None:
        """Add one step.

        Args:
            names: of the losses, the same in every step.
            sums: detached, (number of losses,), on the device.
            counts: how many terms each of them adds up.
            ranks: with more than one, all of them learn whether one went wrong.

        Raises:
            RunError: the losses are others than in the steps before.
        """
        if not self.names:
            self.names = tuple(names)
            self._sums = torch.zeros(len(sums), dtype=torch.float32, device=sums.device)
            self._counts = torch.zeros(len(sums), dtype=torch.int64, device=sums.device)
        elif len(sums) != len(self.names):
            raise RunError(
                f"the losses gave {len(sums)} values in this step ({', '.join(names)}) and {len(self.names)} before "
                f"({', '.join(self.names)}): a loss that returns several returns the same ones in every step, with "
                "count 0 where there is nothing"
            )
        self._sums.add_(sums)
        self._counts.add_(counts)
        total = self._sums.sum()
        torch.ne(total - total, 0, out=self.bad)  # 0 for a number, NaN for NaN and inf
        if ranks > 1:
            torch.distributed.all_reduce(self.bad, torch.distributed.ReduceOp.MAX)
        self.steps += 1

    def means(self) -> dict[str, Tensor]:
        """The mean of each so far, on the device; 0 right after a log point, empty before the first step."""
        return dict(zip(self.names, self._means().unbind(), strict=True))

    def total(self) -> float:
        """Their sum (reads the device); right after a log point, what it was there."""
        return float(self._means().sum()) if self.steps else self._last

    def flush(self, ranks: int = 1) -> dict[str, float]:
        """The mean of each over steps and ranks, then start again (reads the device)."""
        if ranks > 1:
            torch.distributed.all_reduce(self._sums)
            torch.distributed.all_reduce(self._counts)
        values = self._means().tolist()
        self._sums.zero_()
        self._counts.zero_()
        self.bad.zero_()
        self.steps = 0
        self._last = sum(values)
        return dict(zip(self.names, values, strict=True))

    def _means(self) -> Tensor:
        return self._sums / self._counts.clamp(min=1)

    def state_dict(self) -> dict[str, Any]:
        """Plain types: a schedule that reads the losses goes on exactly after a resume."""
        return {
            "names": list(self.names),
            "steps": self.steps,
            "sums": self._sums.clone(),
            "counts": self._counts.clone(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there."""
        self.names, self.steps = tuple(state["names"]), state["steps"]
        self._sums, self._counts = state["sums"].clone(), state["counts"].clone()


def not_finite(values: Mapping[str, float]) -> list[str]:
    """The names of those that are NaN or infinite."""
    return [name for name, value in values.items() if not math.isfinite(value)]
