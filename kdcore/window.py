"""Looking ahead over an accumulation window, so that ragged micro-batches and ranks are averaged exactly."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor

from kdcore.binding import BoundLoss
from kdcore.errors import Problem, RecipeError
from kdcore.signals import Batch

WINDOW = "kdcore.window"
"""Key under which a batch carries, by loss name, the count of its whole window over all ranks."""


class Windowed:
    """A loader that fetches the micro-batches of a window together and tells each the window's counts.

    It reads ahead only within a window, and checkpoints are taken between windows, so the state of the loader
    below is exact then.

    Args:
        loader: of micro-batches.
        losses: whose counts are told.
        accumulate: micro-batches in a window.
        device: of the counts.
        ranks: over which they are added up.
        limit: how many micro-batches the trainer takes of an epoch; asked once it has begun, as it is not known before.
    """

    def __init__(
        self,
        loader: Any,
        losses: list[BoundLoss],
        accumulate: int,
        device: torch.device,
        ranks: int,
        limit: Callable[[], float] = lambda: math.inf,
    ) -> None:
        self._loader = loader
        self._losses = losses
        self._accumulate = accumulate
        self._device = device
        self._ranks = ranks
        self._limit = limit

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator[Batch]:
        """The micro-batches, with the counts of their window.

        Raises:
            RecipeError: the trainer leaves the epoch inside a window, whose counts are then those of more batches than
                it trains on.
        """
        self._refuse_cut()
        batches = iter(self._loader)
        while window := list(islice(batches, self._accumulate)):
            counts = self._counts(window)
            for batch in window:
                yield {**batch, WINDOW: counts}

    def _refuse_cut(self) -> None:
        limit, size = self._limit(), self._accumulate
        length = len(self) if hasattr(self._loader, "__len__") else math.inf
        if limit < length and limit % size:
            whole = int(limit // size) * size
            of = "" if length == math.inf else f" of {length}"
            raise RecipeError(
                [
                    Problem(
                        f"an epoch ends after {limit}{of} batches, inside a window of {size} "
                        f"that make one update: it would be divided by the counts of all {size}",
                        f"set `limit_train_batches` or `overfit_batches` to a multiple of `accumulate_grad_batches`: "
                        f"{f'{whole} or ' if whole else ''}{whole + size}",
                        "trainer",
                    )
                ]
            )

    def _counts(self, window: list[Batch]) -> dict[str, Tensor]:
        names: list[str] = []
        sums: list[Tensor] = []
        for loss in self._losses:
            counts = [loss.count(batch) for batch in window]
            known = [count for count in counts if count is not None]
            if known and len(known) == len(counts):
                names.append(loss.name)
                sums.append(torch.stack(known).sum())
        if not names:
            return {}
        total = torch.stack(sums).to(self._device)
        if self._ranks > 1:
            torch.distributed.all_reduce(total)
        return dict(zip(names, total.unbind(), strict=True))

    @property
    def sampler(self) -> Any:
        """Lightning tells the epoch to this."""
        return self._loader.sampler

    @property
    def batch_sampler(self) -> Any:
        return self._loader.batch_sampler

    def state_dict(self) -> dict[str, Any]:
        """That of the loader below; empty where it has none."""
        return dict(self._loader.state_dict()) if hasattr(self._loader, "state_dict") else {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Hand it to the loader below."""
        if state:
            self._loader.load_state_dict(dict(state))


class StageData(pl.LightningDataModule):
    """The recipe's data as one stage sees it: the same loaders, windowed where that changes anything."""

    def __init__(self, data: pl.LightningDataModule, losses: Iterable[BoundLoss], *, look_ahead: bool) -> None:
        super().__init__()
        self.data = data
        self._losses = list(losses)
        self._look_ahead = look_ahead

    def prepare_data(self) -> None:
        self.data.prepare_data()

    def setup(self, stage: str) -> None:
        self.data.trainer = self.trainer
        self.data.setup(stage)

    def train_dataloader(self) -> Any:
        loader = self.data.train_dataloader()
        trainer = self.trainer
        if trainer is None or not self._look_ahead or trainer.accumulate_grad_batches * trainer.world_size == 1:
            return loader
        return Windowed(
            loader,
            self._losses,
            trainer.accumulate_grad_batches,
            trainer.strategy.root_device,
            trainer.world_size,
            limit=lambda: trainer.num_training_batches,
        )

    def val_dataloader(self) -> Any:
        return self.data.val_dataloader()
