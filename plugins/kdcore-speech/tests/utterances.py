"""Utterances of different length for tests of losses: with frames behind their end, and transcripts likewise."""

from __future__ import annotations

from typing import Any

import torch
from kdcore.signals import IGNORE
from torch import Tensor

BLANK = 0
LABELS = 5
FRAMES = (9, 7, 6, 4)
TOKENS = ([1, 2, 2], [3], [], [4, 1])
"""The third utterance has no transcript."""


def utterances(*, width: int = LABELS, frames: tuple[int, ...] = FRAMES) -> dict[str, Any]:
    """``student``, ``teacher`` and ``batch`` of four utterances with ``tokens``, for ``check_loss``."""
    ours, theirs = (_signals(seed, width, frames) for seed in (1, 2))
    return {"student": ours, "teacher": theirs, "batch": batch(), "facts": {"blank": BLANK, "vocabulary": LABELS}}


def batch() -> dict[str, Tensor]:
    """Four utterances."""
    return {"id": torch.arange(len(TOKENS)), "tokens": padded(TOKENS)}


def padded(rows: Any) -> Tensor:
    """Lists of tokens as (N, U), -100 behind their end."""
    made = torch.full((len(rows), max(1, *map(len, rows))), IGNORE)
    for row, tokens in enumerate(rows):
        made[row, : len(tokens)] = torch.tensor(tokens, dtype=torch.int64)
    return made


def _signals(seed: int, width: int, frames: tuple[int, ...]) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(len(frames), max(frames) + 1, width, generator=generator)
    return {"logits": logits, "frames": torch.tensor(frames)}
