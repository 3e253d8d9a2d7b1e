"""One way to load data: exact order from (seed, epoch), exact global batches on any number of ranks, exact resume."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Any, Protocol, cast, runtime_checkable

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler, default_collate

from kdcore.data.seeds import derive_seed
from kdcore.signals import Batch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class Samples(Protocol):
    """A dataset: a dict a sample, each with a stable integer ``id``."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...


@runtime_checkable
class Batches(Protocol):
    """A dataset that is fetched a batch at a time, already collated: what data in memory should be.

    A list returned instead is taken for a list of samples (torch's own reading of ``__getitems__``) and collated.
    """

    def __len__(self) -> int: ...

    def __getitems__(self, index: Any, /) -> Any: ...


def fetch(samples: Samples | Batches, rows: Tensor) -> Batch | list[Batch]:
    """These rows: a batch, or single samples where the data gives those."""
    if not isinstance(samples, Batches):
        return [dict(samples[row]) for row in rows.tolist()]
    fetched: Batch | list[Batch] = samples.__getitems__(rows)
    return fetched


class EpochBatches(Sampler[list[int]]):
    """The batches of one rank. The order of an epoch is a pure function of (seed, epoch).

    Global batch ``b`` is ``order[b*B:(b+1)*B]`` and this rank takes every ``world``-th sample of it, so that any
    number of ranks sees exactly the batches that one process sees. A short last batch is kept; when it has fewer
    samples than there are ranks it joins the batch before it, so that no rank is left without a sample.

    Args:
        n: number of samples.
        batch_size: samples in a batch, over all ranks together.
        seed: the recipe's seed.
        shuffle: a new order each epoch; otherwise 0..n-1.
        rank: this process.
        world: number of processes.
        variants: how many draws of each sample there are, which the epochs go through in turn; 0 for a new one in
            every epoch. Draw ``v`` of row ``r`` is index ``v * n + r`` (see :class:`kdcore.data.augment.Transformed`).

    Raises:
        ValueError: a batch, or all the data, has fewer samples than there are ranks.
    """

    def __init__(
        self,
        n: int,
        batch_size: int,
        *,
        seed: int = 0,
        shuffle: bool = False,
        rank: int = 0,
        world: int = 1,
        variants: int = 1,
    ) -> None:
        if batch_size < world:
            raise ValueError(
                f"batch_size={batch_size} for {world} process{'es' * (world > 1)}: it counts the samples of all "
                f"processes together, so give at least {world}"
            )
        if n < world:
            raise ValueError(f"{n} samples cannot be divided over {world} process{'es' * (world > 1)}")
        self.n, self.batch_size, self.seed, self.shuffle = n, batch_size, seed, shuffle
        self.rank, self.world, self.variants = rank, world, variants
        self.epoch = 0
        self.consumed = 0
        """Batches of this epoch that were handed out."""
        self._skip = 0

    @property
    def sampler(self) -> EpochBatches:
        """Itself: Lightning looks here for :meth:`set_epoch`."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Start another epoch; the one that is already set goes on where it was."""
        if epoch != self.epoch:
            self.seek(epoch, 0)

    def seek(self, epoch: int, batches: int) -> None:
        """The next iteration starts after ``batches`` batches of this epoch; those after it start at the beginning."""
        self.epoch, self.consumed, self._skip = epoch, batches, batches

    def order(self) -> Tensor:
        """The samples of this epoch, all ranks together: int64 (n,)."""
        if not self.shuffle:
            return torch.arange(self.n)
        generator = torch.Generator().manual_seed(derive_seed(self.seed, "order", self.epoch))
        return torch.randperm(self.n, generator=generator)

    def __len__(self) -> int:
        full, rest = divmod(self.n, self.batch_size)
        return full + (rest >= self.world)

    def indices(self) -> Iterator[Tensor]:
        """The batches still to come in this epoch, this rank's samples and their draw: int64 (n_b,)."""
        self.consumed, self._skip = self._skip, 0
        starts = [batch * self.batch_size for batch in range(len(self))]
        sizes = [end - start for start, end in zip(starts, [*starts[1:], self.n], strict=True)]
        variant = self.epoch % self.variants if self.variants else self.epoch
        for batch in islice(torch.split(self.order() + variant * self.n, sizes), self.consumed, None):
            yield batch[self.rank :: self.world]

    def __iter__(self) -> Iterator[list[int]]:
        return (index.tolist() for index in self.indices())


class Loader(DataLoader[Batch]):
    """A ``DataLoader`` that resumes exactly and never touches the global random state.

    Without workers a batch of a :class:`Batches` dataset costs its indexing and nothing else. Lightning stores
    ``state_dict()`` in its checkpoints and calls ``set_epoch`` on the batch sampler. Under several devices set
    ``Trainer(use_distributed_sampler=False)``: this loader divides the batches itself.

    Args:
        dataset: gives whole batches or single samples.
        batch_size, seed, shuffle, rank, world, variants: see :class:`EpochBatches`.
        collate: list of samples -> batch, for a dataset that gives single samples.
        workers: processes that load; they stay alive from epoch to epoch.
        sampler: divides an epoch into batches, called as :class:`EpochBatches` is, of which its result is one.
    """

    def __init__(
        self,
        dataset: Samples | Batches,
        *,
        batch_size: int,
        seed: int = 0,
        shuffle: bool = False,
        rank: int = 0,
        world: int = 1,
        variants: int = 1,
        collate: Callable[[list[Any]], Batch] = default_collate,
        workers: int = 0,
        sampler: Callable[..., EpochBatches] = EpochBatches,
    ) -> None:
        self.batches = sampler(
            len(dataset), batch_size, seed=seed, shuffle=shuffle, rank=rank, world=world, variants=variants
        )
        super().__init__(
            cast("Any", dataset),
            batch_sampler=self.batches,
            collate_fn=_Collate(collate),
            num_workers=workers,
            persistent_workers=workers > 0,
            # the iterator draws the workers' base seed: from here, not from the global state
            generator=torch.Generator().manual_seed(derive_seed(seed, "workers")),
        )

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        """Lazy: Lightning asks for the iterator before it sets the epoch, and the epoch decides the order."""
        batches = self.batches
        for batch in super().__iter__() if self.num_workers else self._fetched():
            # counted here, not in the sampler, which workers read ahead of what was handed out
            batches.consumed += 1
            yield batch

    def state_dict(self) -> dict[str, int]:
        """The epoch and how many of its batches were handed out."""
        return {"epoch": self.batches.epoch, "batches": self.batches.consumed}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on after the batch at which the state was taken.

        Raises:
            ValueError: the epoch has fewer batches than were handed out: the data or the batch size is another.
        """
        if state["batches"] > len(self.batches):
            raise ValueError(
                f"the checkpoint was taken after {state['batches']} batches of an epoch, but an epoch has only "
                f"{len(self.batches)} now: the data or `batch_size` changed, start a fresh run"
            )
        self.batches.seek(state["epoch"], state["batches"])

    def _fetched(self) -> Iterator[Batch]:
        dataset = self.dataset
        if isinstance(dataset, Batches):
            return (self.collate_fn(dataset.__getitems__(index)) for index in self.batches.indices())
        return (self.collate_fn([dataset[row] for row in index.tolist()]) for index in self.batches.indices())


class _Collate:
    """Leaves a finished batch alone. A class, because workers are sent it by pickle."""

    def __init__(self, collate: Callable[[list[Any]], Batch]) -> None:
        self.collate = collate

    def __call__(self, fetched: Batch | list[Any]) -> Batch:
        return self.collate(fetched) if isinstance(fetched, list) else fetched
