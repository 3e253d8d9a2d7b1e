"""Labelled and unlabelled samples in one stream: a teacher speaks about both."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from kdcore.data.base import Data, Split
from kdcore.data.chosen import labelled_rows
from kdcore.data.loader import Batches, Samples, fetch
from kdcore.signals import Batch

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
        return _Both(_Part(first, self.labelled), _Part(second, self.unlabelled))


@dataclass
class _Part:
    """One set's samples."""

    samples: Samples | Batches
    data: Data

    def __len__(self) -> int:
        return len(self.samples)

    def batch(self, fetched: Batch | list[Batch]) -> Batch:
        return self.data.collate(fetched) if isinstance(fetched, list) else fetched


class _Both:
    """The samples of one set, then those of the other, whose labels are hidden."""

    def __init__(self, labelled: _Part, unlabelled: _Part) -> None:
        self._labelled = labelled
        self._unlabelled = unlabelled

    def __len__(self) -> int:
        return len(self._labelled) + len(self._unlabelled)

    @property
    def labelled(self) -> torch.Tensor:
        """Bool (N,); of the second set none is."""
        known = torch.zeros(len(self), dtype=torch.bool)
        known[labelled_rows(self._labelled.samples, self._labelled.data.without_labels)] = True
        return known

    def __getitems__(self, index: Any) -> Batch | list[Batch]:
        rows = torch.as_tensor(index)
        ours, theirs = rows[rows < len(self._labelled)], rows[rows >= len(self._labelled)] - len(self._labelled)
        if not len(theirs):
            return fetch(self._labelled.samples, ours)
        hidden = self._hidden(fetch(self._unlabelled.samples, theirs))
        if not len(ours):
            return hidden
        shown = fetch(self._labelled.samples, ours)
        if isinstance(shown, list) and isinstance(hidden, list):  # collated together: they may differ in size
            samples = [*shown, *hidden]
            shared = set.intersection(*(set(sample) for sample in samples))
            return [{name: sample[name] for name in sample if name in shared} for sample in samples]
        first, second = self._labelled.batch(shown), self._unlabelled.batch(hidden)
        return {name: torch.cat([first[name], second[name]]) for name in first if name in second}

    def _hidden(self, fetched: Batch | list[Batch]) -> Batch | list[Batch]:
        if isinstance(fetched, list):
            return [self._without_labels(sample) for sample in fetched]
        return self._without_labels(fetched)

    def _without_labels(self, batch: Batch) -> Batch:
        return self._unlabelled.data.without_labels({**batch, "id": batch["id"] + UNLABELLED_IDS})
