"""Samples of different length to a batch: everything is padded at its end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from kdcore.signals import IGNORE, Batch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

NO_TRANSCRIPT = torch.tensor([IGNORE])
"""The ``tokens`` of a sample without a transcript."""


def collate(samples: Sequence[dict[str, Any]]) -> Batch:
    """A batch of samples, each ``audio`` float32 (S,), ``id`` and whatever else; ``audio_lengths`` is added.

    Numbers become (N,). Tensors of different length are padded at the end of their first axis: with -100 where they are
    integers, with 0 otherwise. Columns of ``tokens`` that are -100 throughout are cut off.
    """
    batch = {name: _column([torch.as_tensor(sample[name]) for sample in samples]) for name in samples[0]}
    batch["audio_lengths"] = torch.tensor([len(sample["audio"]) for sample in samples])
    if "tokens" in batch:
        used = (batch["tokens"] != IGNORE).any(0).nonzero()
        batch["tokens"] = batch["tokens"][:, : max(1, int(used[-1]) + 1 if len(used) else 0)]
    return batch


def _column(values: list[Tensor]) -> Tensor:
    if values[0].ndim == 0 or all(len(value) == len(values[0]) for value in values):
        return torch.stack(values)
    return pad_sequence(values, batch_first=True, padding_value=0.0 if values[0].is_floating_point() else IGNORE)
