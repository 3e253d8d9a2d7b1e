"""What CTC nets say of clips of different length, to try losses on."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

LABELS = 5
"""Of the vocabulary; the blank is the third, so that a mistaken zero shows."""
BLANK = 2
RAGGED = (1.0, 0.7, 0.25)
"""How much of the longest clip each fills."""
SAMPLES = 900


def said(size: int, seed: int, *, labels: int = LABELS) -> dict[str, Tensor]:
    """``logits`` (3, size, labels), NaN behind each clip's end, and ``frames``."""
    generator = torch.Generator().manual_seed(seed)
    frames = torch.tensor([max(1, round(size * share)) for share in RAGGED])
    logits = 3 * torch.randn(3, size, labels, generator=generator)
    behind = torch.arange(size) >= frames.unsqueeze(1)
    return {"logits": logits.masked_fill(behind.unsqueeze(-1), torch.nan), "frames": frames}


def clips() -> dict[str, Any]:
    """A batch of three clips with transcripts, the last of which nobody knows."""
    return {
        "id": torch.arange(3),
        "audio": torch.zeros(3, SAMPLES),
        "audio_lengths": torch.tensor([int(SAMPLES * share) for share in RAGGED]),
        "tokens": torch.tensor([[0, 3, 3, 4], [4, 1, -100, -100], [-100] * 4]),
    }


def heard(*labels: int, certain: float = 5.0) -> Tensor:
    """(1, T, LABELS) logits of a net that hears these."""
    return certain * torch.nn.functional.one_hot(torch.tensor([labels]), LABELS).float()


def features(size: int, width: int, seed: int) -> Tensor:
    """(3, size, width), NaN behind each clip's end."""
    made = torch.randn(3, size, width, generator=torch.Generator().manual_seed(seed))
    ends = torch.tensor([max(1, round(size * share)) for share in RAGGED])
    return made.masked_fill((torch.arange(size) >= ends.unsqueeze(1)).unsqueeze(-1), torch.nan)


def soft(batch: dict[str, Any], *, top: int = 3) -> dict[str, Any]:
    """With what a language model says of each token: its likeliest labels, which add up to less than 1."""
    tokens = batch["tokens"]
    logits = torch.randn(*tokens.shape, LABELS, generator=torch.Generator().manual_seed(4))
    best = logits.softmax(-1).topk(top)
    unknown = (tokens < 0).unsqueeze(-1)
    return {
        **batch,
        "soft_tokens": best.indices.masked_fill(unknown, -100),
        "soft_probabilities": best.values.masked_fill(unknown, 0.0),
    }
