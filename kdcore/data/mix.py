"""Labelled and unlabelled samples in one stream: a teacher speaks about both."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from kdcore.data.base import Data, Split
from kdcore.data.loader import Batches, Samples
from kdcore.signals import IGNORE, Batch

UNLABELLED_IDS = 1 << 40
"""Added to the ``id`` of an unlabelled sample, so that no two samples share one."""


class Mix(Data):
    """Trains on two sets at once; the labels of ``unlabelled``, if it has any, are hidden (-100).

    An epoch is every sample of both, in one order, so a batch holds the two in proportion. Losses that need labels
    count the labelled samples only. Validation and test are those of ``labelled``.

    Args:
        labelled: gives the labels, the facts and the class names.
        unlabelled: gives more inputs of the same kind.
        batch_size: samples of both in a batch, over all devices together; that of ``labelled`` and ``unlabelled``
            themselves has no effect.

    Raises:
        ValueError: the two disagree on a fact other than the number of classes.
    """

    fact_names: ClassVar[tuple[str, ...]] = ("classes", "channels", "image_height", "image_width", "features")

    def __init__(self, *, labelled: Data, unlabelled: Data, batch_size: int = 128) -> None:
        super().__init__(batch_size=batch_size)
        self.labelled = labelled
        self.unlabelled = unlabelled
        self.facts = labelled.facts
        self.class_names = labelled.class_names
        self.workers = max(labelled.workers, unlabelled.workers)
        self.collate = labelled.collate  # type: ignore[method-assign]
        # one list for all three: more is noticed while samples are loaded
        self.notes += [*labelled.notes, *unlabelled.notes]
        labelled.notes = unlabelled.notes = self.notes
        for name in (labelled.facts.keys() & unlabelled.facts.keys()) - {"classes"}:
            if labelled.facts[name] != unlabelled.facts[name]:
                raise ValueError(
                    f"the labelled data has {name} = {labelled.facts[name]}, the unlabelled {unlabelled.facts[name]}: "
                    "a net takes inputs of one kind"
                )

    def split(self, name: Split) -> Samples | Batches | None:
        """``train`` is both; the others are those of the labelled data."""
        first = self.labelled.split(name)
        if name != "train" or first is None:
            return first
        second = self.unlabelled.split(name)
        if second is None:
            return first
        return _Both(_Part(first, self.labelled.collate), _Part(second, self.unlabelled.collate))


@dataclass
class _Part:
    """One set's samples, and how they are made a batch."""

    samples: Samples | Batches
    collate: Callable[[list[Any]], Batch]

    def __len__(self) -> int:
        return len(self.samples)

    def fetch(self, rows: torch.Tensor) -> Batch | None:
        """A batch of these rows; ``None`` for no rows."""
        if not len(rows):
            return None
        samples = self.samples
        if not isinstance(samples, Batches):
            return self.collate([samples[row] for row in rows.tolist()])
        fetched: Batch | list[Any] = samples.__getitems__(rows)
        return self.collate(fetched) if isinstance(fetched, list) else fetched


class _Both:
    """The samples of one set, then those of the other, whose labels are hidden."""

    def __init__(self, labelled: _Part, unlabelled: _Part) -> None:
        self._labelled = labelled
        self._unlabelled = unlabelled

    def __len__(self) -> int:
        return len(self._labelled) + len(self._unlabelled)

    def __getitems__(self, index: Any) -> Batch:
        rows = torch.as_tensor(index)
        ours = rows < len(self._labelled)
        parts = [
            self._labelled.fetch(rows[ours]),
            _hide(self._unlabelled.fetch(rows[~ours] - len(self._labelled))),
        ]
        kept = [part for part in parts if part is not None]
        if len(kept) == 1:
            return kept[0]
        shared = kept[0].keys() & kept[1].keys()
        return {name: torch.cat([part[name] for part in kept]) for name in shared}


def _hide(batch: Batch | None) -> Batch | None:
    if batch is None:
        return None
    ids = batch["id"]
    labels = torch.full_like(batch["labels"], IGNORE) if "labels" in batch else torch.full_like(ids, IGNORE)
    return {**batch, "id": ids + UNLABELLED_IDS, "labels": labels}
