"""Batches of samples of similar length, in an order that is a pure function of (seed, epoch)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice

import torch
from kdcore.data.loader import EpochBatches
from kdcore.data.seeds import derive_seed
from torch import Tensor

SPREAD = 1.1
"""In a bucket the longest sample is at most so many times as long as the shortest."""


class BucketBatches(EpochBatches):
    """The batches of one rank: samples change places within their bucket, and batches with each other, each epoch.

    Sorted by length, the samples are cut into buckets, and into batches that hold as many as the limits allow whoever
    of its bucket stands in which place. So the number and the sizes of the batches are the same in all epochs, no
    batch exceeds the limits, and only a batch between two buckets holds samples that differ by more than ``SPREAD``.

    Args:
        n: number of samples.
        batch_size: samples in a batch at most, over all ranks together.
        seconds: how long each sample is.
        batch_seconds: seconds in a batch at most, padding included; ``None`` for no such limit. A longer sample is a
            batch of its own.
        seed, shuffle, rank, world, variants: see :class:`kdcore.data.loader.EpochBatches`.

    Raises:
        ValueError: a batch, or all the data, has fewer samples than there are ranks.
    """

    def __init__(
        self,
        n: int,
        batch_size: int,
        *,
        seconds: Sequence[float],
        batch_seconds: float | None,
        seed: int = 0,
        shuffle: bool = True,
        rank: int = 0,
        world: int = 1,
        variants: int = 1,
    ) -> None:
        super().__init__(n, batch_size, seed=seed, shuffle=shuffle, rank=rank, world=world, variants=variants)
        lengths, self._by_length = torch.tensor(seconds, dtype=torch.float64).sort(stable=True)
        self._buckets = _buckets(lengths.tolist())
        longest = [float(lengths[sum(self._buckets[: i + 1]) - 1]) for i in range(len(self._buckets))]
        limits = [top for top, size in zip(longest, self._buckets, strict=True) for _ in range(size)]
        self._sizes = _sizes(limits, batch_size, batch_seconds, world)

    def __len__(self) -> int:
        return len(self._sizes)

    def order(self) -> Tensor:
        """The samples of this epoch by bucket, before the batches change places: int64 (n,)."""
        generator = torch.Generator().manual_seed(derive_seed(self.seed, "order", self.epoch))
        parts = [
            part[torch.randperm(len(part), generator=generator)] for part in torch.split(self._by_length, self._buckets)
        ]
        return torch.cat(parts)

    def indices(self) -> Iterator[Tensor]:
        self.consumed, self._skip = self._skip, 0
        variant = self.epoch % self.variants if self.variants else self.epoch
        batches = torch.split(self.order() + variant * self.n, self._sizes)
        generator = torch.Generator().manual_seed(derive_seed(self.seed, "batches", self.epoch))
        for number in islice(torch.randperm(len(batches), generator=generator).tolist(), self.consumed, None):
            yield batches[number][self.rank :: self.world]


def _buckets(lengths: list[float]) -> list[int]:
    """Sizes of the buckets of ascending lengths."""
    sizes: list[int] = []
    first = 0.0
    for length in lengths:
        if not sizes or length > SPREAD * first:
            sizes.append(0)
            first = length
        sizes[-1] += 1
    return sizes


def _sizes(limits: list[float], batch_size: int, batch_seconds: float | None, world: int) -> list[int]:
    """Sizes of the batches: of each place ``limits`` says how long a sample may be that stands there."""
    sizes: list[int] = []
    size = 0
    for limit in limits:
        too_long = batch_seconds is not None and (size + 1) * limit > batch_seconds
        if size >= world and (size == batch_size or too_long):
            sizes.append(size)
            size = 0
        size += 1
    if sizes and size < world:
        sizes[-1] += size
    else:
        sizes.append(size)
    return sizes
