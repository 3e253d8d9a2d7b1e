"""Some of a split's samples, chosen by row: those with a label, those that a table names."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from kdcore.data.loader import Batches, Samples, fetch
from kdcore.signals import Batch

READ_AT_ONCE = 256
"""Samples that are read together to see which of them have labels."""


class Chosen:
    """Rows of a split, in the order given.

    Args:
        samples: of the split.
        rows: int64 (M,).
    """

    def __init__(self, samples: Samples | Batches, rows: Tensor) -> None:
        self._samples, self._rows = samples, rows

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def ids(self) -> Tensor:
        """Of every one, int64 (M,)."""
        return ids_of(self._samples)[self._rows]

    def __getitems__(self, index: Tensor | Sequence[int]) -> Batch | list[Any]:
        return fetch(self._samples, self._rows[torch.as_tensor(index)])


def ids_of(samples: Samples | Batches) -> Tensor:
    """The id of every sample, int64 (N,); reads all of them, unless they tell their ``ids``."""
    known = getattr(samples, "ids", None)
    if known is not None:
        return torch.as_tensor(known)
    if not isinstance(samples, Batches):
        return torch.tensor([int(samples[row]["id"]) for row in range(len(samples))])
    fetched = samples.__getitems__(torch.arange(len(samples)))
    ids: Tensor = (
        torch.tensor([int(one["id"]) for one in fetched]) if isinstance(fetched, list) else fetched["id"].long()
    )
    return ids


def labelled_rows(samples: Samples | Batches, hide: Callable[[Batch], Batch]) -> Tensor:
    """Rows of the samples that have a label, int64 (M,): those that are not the same once their labels are hidden.

    Reads all of them, unless they tell which are ``labelled``, a bool (N,).

    Args:
        samples: of a split.
        hide: the data's ``without_labels``.
    """
    known = getattr(samples, "labelled", None)
    if known is None:
        parts = torch.split(torch.arange(len(samples)), READ_AT_ONCE)
        known = torch.cat([_labelled(samples, rows, hide) for rows in parts])
    return torch.as_tensor(known).nonzero().flatten()


def _labelled(samples: Samples | Batches, rows: Tensor, hide: Callable[[Batch], Batch]) -> Tensor:
    """Of these rows: bool (len(rows),)."""
    fetched = fetch(samples, rows)
    if isinstance(fetched, list):
        changed = [_changed(sample, hide(sample)) for sample in fetched]
        return torch.tensor([any(bool(column.any()) for column in columns) for columns in changed])
    found = torch.zeros(len(rows), dtype=torch.bool)
    for column in _changed(fetched, hide(fetched)):
        found |= column.reshape(len(rows), -1).any(-1)
    return found


def _changed(shown: Batch, hidden: Batch) -> list[Tensor]:
    """Where columns differ, each of its shape; one that hiding cuts short differs as a whole."""
    names = [name for name, column in shown.items() if hidden[name] is not column]
    pairs = [(torch.as_tensor(shown[name]), torch.as_tensor(hidden[name])) for name in names]
    return [
        one != other if one.shape == other.shape else torch.ones_like(one, dtype=torch.bool) for one, other in pairs
    ]
