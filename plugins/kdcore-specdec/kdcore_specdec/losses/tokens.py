"""The tokens of a batch that a loss is wanted for, and what models say about them."""

from __future__ import annotations

from functools import partial
from typing import Literal

import torch
from torch import Tensor

from kdcore.losses.base import Total
from kdcore.losses.functional import hide
from kdcore.signals import IGNORE, Batch, Signals
from kdcore_specdec.functional import Rows, Terms, weighted_sum
from kdcore_specdec.fused import Fused, fastest

Source = Literal["hidden", "logits"]
"""Where a model's logits come from: ``hidden`` times ``head``, a chunk at a time, or its signal ``logits``."""


class Tokens:
    """The labelled tokens, flattened to M rows.

    On a CPU only the labelled tokens are computed. Elsewhere picking them out would wait for the device, so all are,
    the others with zeros in place of their rows and a weight of 0.

    Args:
        batch: ``labels`` (N, T), -100 where no loss is wanted; ``mask`` (bool) leaves out more, ``weight`` multiplies
            terms. Both optional, and of the shape of the labels.

    Raises:
        KeyError: the batch has no ``labels``.
        ValueError: mask or weight do not have the shape of the labels.
    """

    def __init__(self, batch: Batch) -> None:
        if "labels" not in batch:
            raise KeyError("a loss on tokens reads the batch's `labels`, which this data does not give")
        labels: Tensor = batch["labels"]
        self.selected = labels != IGNORE
        for name in ("mask", "weight"):
            if name in batch and batch[name].shape != labels.shape:
                raise ValueError(
                    f"the batch's `{name}` has shape {tuple(batch[name].shape)}, "
                    f"its `labels` have {tuple(labels.shape)}"
                )
        if "mask" in batch:
            self.selected = self.selected & batch["mask"]
        self.weighted = "weight" in batch
        weights = self.selected * batch["weight"] if self.weighted else self.selected
        on_cpu = labels.device.type == "cpu"
        self._index = self.selected.flatten().nonzero()[:, 0] if on_cpu else None
        self.weights = self._flat(weights.float())
        self.counted = self._flat(self.selected)
        """(M,) bool: the rows that are labelled; all of them on a CPU."""
        self.labels = self._flat(labels)
        """(M,) int64."""

    @property
    def count(self) -> Tensor:
        """How many tokens are labelled, int64."""
        return self.selected.sum()

    def rows(self, signals: Signals, who: str, source: Source = "hidden") -> Rows:
        """The logits of one model.

        Raises:
            ValueError: its signals are of another shape than the labels.
        """
        name = "logits" if source == "logits" else "hidden"
        values = signals[name]
        if values.shape[:-1] != self.selected.shape:
            raise ValueError(
                f"the {who}'s `{name}` has shape {tuple(values.shape)}, the labels have {tuple(self.selected.shape)}: "
                "a loss on tokens reads one row for each label"
            )
        return Rows(self._flat(values), signals["head"] if source == "hidden" else None)

    def total(self, terms: Terms, student: Rows, *others: Rows, chunk: int | None, fused: Fused | None = None) -> Total:
        """The terms of the labelled tokens, added up.

        Args:
            terms: one for each token.
            student: whose logits come first in them.
            others: what comes next.
            chunk: tokens at a time; ``None`` lets the size of the vocabulary decide.
            fused: the same sum by a fused kernel, which knows no weights.
        """
        added = fastest(
            partial(weighted_sum, terms, student, *others, weights=self.weights, chunk=chunk),
            None if self.weighted else fused,
            student,
        )
        return Total(added.float(), self.count)

    def _flat(self, values: Tensor) -> Tensor:
        """(N, T, ...) -> (M, ...)."""
        if self._index is not None:
            return values.flatten(0, 1)[self._index]
        return (values if values.ndim == 2 else hide(values, self.selected)).flatten(0, 1)


def check_same_vocabulary(student: Rows, other: Rows, who: str) -> None:
    """Refuse to compare distributions over different tokens.

    Raises:
        ValueError: the two tell different numbers of tokens apart.
    """
    if student.width != other.width:
        raise ValueError(
            f"the draft tells {student.width} tokens apart and the {who} {other.width}: both must have the same "
            "vocabulary. Make a fresh draft with the data's tokenizer (`specdec.llama`), or pad both heads to one size"
        )


def count_labels(batch: Batch) -> Tensor | None:
    """How many tokens a loss on labelled tokens will have, where the batch tells."""
    if "labels" not in batch:
        return None
    selected = batch["labels"] != IGNORE
    return torch.as_tensor((selected & batch["mask"] if "mask" in batch else selected).sum())


def check_chunk(chunk: int | None) -> None:
    """Refuse a chunk without tokens.

    Raises:
        ValueError: ``chunk`` is below 1.
    """
    if chunk is not None and chunk < 1:
        raise ValueError(f"chunk={chunk} is no number of tokens from 1 on")
