"""The base class of all data: splits by name, loaders that every rank and every resume agree on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import default_collate

from kdcore.data.augment import Chain, Transformed
from kdcore.data.chosen import Chosen, labelled_rows
from kdcore.data.loader import Batches, EpochBatches, Loader, Samples
from kdcore.data.table import Tabled
from kdcore.errors import RunError
from kdcore.signals import IGNORE

if TYPE_CHECKING:
    from torch import Tensor

    from kdcore.signals import Batch

Split = Literal["train", "val", "test"]


@dataclass(frozen=True)
class Treatment:
    """What a recipe does to the training samples of any data: the keys that the core owns.

    Attributes:
        stage: whose table selects and completes the samples.
        table: gives that table; asked when training samples are first wanted.
        chain: transforms that all views share.
        views: further transforms, by view.
        variants: how many draws of each sample there are; 0 for a new one in every epoch.
        labelled: whether only samples with a label are trained on.
    """

    stage: str | None = None
    table: Callable[[], Mapping[str, Tensor]] = dict
    chain: Chain = field(default_factory=lambda: Chain({}))
    views: Mapping[str, Chain] = field(default_factory=dict)
    variants: int = 0
    labelled: bool = False

    @property
    def is_random(self) -> bool:
        """Whether there is any transform."""
        return bool(self.chain.transforms or self.views)


class Data(LightningDataModule):
    """Gives training, validation and, where there is one, test data. A subclass implements :meth:`split`.

    A batch holds ``id`` (int64 (N,), stable for ever), the task's inputs, and ``labels`` where there are any (-100
    marks a sample that has none). A training batch holds ``seed`` (int64 (N,), see
    :func:`kdcore.data.seeds.sample_seeds`) only where the recipe has transforms.

    Class attributes:
        fact_names: a literal tuple of the keys of ``facts``; read from the source by ``check``.

    Attributes:
        workers: processes that load; 0 where the data is in memory.
        batch_size: samples in a batch, over all devices together.
        evaluation_batch_size: those in a batch of validation or test, where it may be larger: ``None`` for as many.
        facts: what models and tasks need to know (``classes``, ``channels``, ...), plain values as JSON has them.
        class_names: a name for each class, or ``None``.
        notes: what a person should know of this data: samples that were left out, and why. Said during the run, and
            written into the report.
        seed: the recipe's seed; set by the builder before the first split is asked for.
        treatment: what the recipe does to training samples; set by the builder too.
    """

    fact_names: ClassVar[tuple[str, ...]] = ()
    workers: int = 0
    evaluation_batch_size: int | None = None

    facts: dict[str, Any]
    class_names: tuple[str, ...] | None = None
    seed: int = 0
    treatment: Treatment = Treatment()

    def __init__(self, *, batch_size: int) -> None:
        super().__init__()
        if batch_size < 1:
            raise ValueError(f"batch_size={batch_size}: give at least 1")
        self.batch_size = batch_size
        self.notes: list[str] = []

    def split(self, name: Split) -> Samples | Batches | None:
        """One split's samples, not augmented; ``None`` where there is no such split (only ``test`` may be missing)."""
        raise NotImplementedError(f"{type(self).__name__} does not implement split(name)")

    @staticmethod
    def collate(samples: list[Any]) -> Batch:
        """A batch from single samples, where a split gives those; stacks them unless a subclass says otherwise."""
        batch: Batch = default_collate(samples)
        return batch

    @staticmethod
    def without_labels(batch: Batch) -> Batch:
        """A batch, or a single sample, with its labels hidden. Here ``labels`` become -100.

        A subclass whose labels are called otherwise (boxes, a transcript) says what hides them. ``mix`` asks for it,
        and ``samples: labelled``, which leaves out what is the same afterwards; samples that tell which are
        ``labelled``, a bool (N,), need not be read for that.
        """
        labels = torch.as_tensor(batch.get("labels", batch["id"]))
        return {**batch, "labels": torch.full_like(labels, IGNORE)}

    def samples(self, name: Split) -> Samples | Batches | None:
        """The split as it is used: that of training after the recipe's table, choice and transforms.

        Raises:
            RunError: only samples with labels are wanted, and there are none.
        """
        samples = self.split(name)
        treatment = self.treatment
        if samples is None or name != "train":
            return samples
        if treatment.stage is not None:
            samples = Tabled(samples, treatment.table(), treatment.stage)
        if treatment.labelled:
            rows = labelled_rows(samples, self.without_labels)
            if len(rows) == 0:
                raise RunError(f"`samples: labelled`: none of the {len(samples)} training samples has a label")
            samples = Chosen(samples, rows) if len(rows) < len(samples) else samples
        if treatment.is_random:
            samples = Transformed(
                samples, seed=self.seed, chain=treatment.chain, views=treatment.views, collate=self.collate
            )
        return samples

    def sampler(self, samples: Samples | Batches, name: Split) -> Callable[..., EpochBatches]:
        """What divides a split into batches; a subclass may put samples of like length together.

        It is called as :class:`kdcore.data.loader.EpochBatches` is and returns one, or one of a subclass. Resuming
        and several devices rely on that: equally many batches in every epoch, each a pure function of seed and epoch.
        """
        return EpochBatches

    @property
    def has_test(self) -> bool:
        """Whether there is a test split; without one the report measures on the validation split, and says so."""
        return self.split("test") is not None

    @property
    def split_sizes(self) -> dict[str, int]:
        """Number of samples of each split that exists."""
        names: tuple[Split, ...] = ("train", "val", "test")
        return {name: len(samples) for name in names if (samples := self.split(name)) is not None}

    def train_dataloader(self) -> Loader:
        """In a new order each epoch, a pure function of (seed, epoch)."""
        return self._loader("train", shuffle=True)

    def val_dataloader(self) -> Loader:
        """In the order of the split."""
        return self._loader("val", shuffle=False)

    def test_dataloader(self) -> Loader:
        """In the order of the split.

        Raises:
            RunError: there is no test split; ask :attr:`has_test` first.
        """
        return self._loader("test", shuffle=False)

    def _loader(self, name: Split, *, shuffle: bool) -> Loader:
        samples = self.samples(name)
        if samples is None:
            raise RunError(f"the data ({type(self).__name__}) has no {name} split")
        evaluated = self.evaluation_batch_size if name != "train" else None
        return Loader(
            samples,
            batch_size=evaluated or self.batch_size,
            seed=self.seed,
            shuffle=shuffle,
            rank=self.trainer.global_rank if self.trainer else 0,
            world=self.trainer.world_size if self.trainer else 1,
            variants=self.treatment.variants if name == "train" and self.treatment.is_random else 1,
            collate=self.collate,
            workers=self.workers,
            sampler=self.sampler(samples, name),
        )
