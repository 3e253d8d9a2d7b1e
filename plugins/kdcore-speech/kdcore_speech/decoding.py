"""What a CTC net says: the likeliest label of each frame, repeats and blanks taken out."""

from __future__ import annotations

import torch
from kdcore.signals import IGNORE
from torch import Tensor

from kdcore_speech.frames import frame_mask


def greedy(logits: Tensor, frames: Tensor, blank: int) -> Tensor:
    """The labels of the best path, int64 (N, T): at the left, -100 behind them.

    Args:
        logits: (N, T, V), of any scale.
        frames: int64 (N,), how many of T count.
        blank: the label that says nothing.

    **Paper**: Graves et al., Connectionist Temporal Classification, ICML 2006, section 3.2 (best path decoding).
    """
    best = logits.argmax(-1)
    before = torch.cat([torch.full_like(best[:, :1], blank), best[:, :-1]], 1)
    kept = (best != blank) & (best != before) & frame_mask(frames, best.shape[1])
    # what is not kept goes to a column of its own, which is cut off
    size = best.shape[1]
    place = torch.where(kept, kept.cumsum(1) - 1, size)
    empty = torch.full_like(best[:, :1], IGNORE).expand(-1, size + 1)
    return empty.scatter(1, place, best)[:, :size]


def repeats(tokens: Tensor) -> Tensor:
    """How many labels follow an equal one, between which CTC needs a blank: int64 (N,) of tokens (N, U)."""
    return ((tokens[:, 1:] == tokens[:, :-1]) & (tokens[:, 1:] != IGNORE)).sum(1)


def frames_needed(tokens: Tensor) -> Tensor:
    """The fewest frames in which CTC can say these tokens: int64 (N,) of tokens (N, U)."""
    return (tokens != IGNORE).sum(1) + repeats(tokens)
