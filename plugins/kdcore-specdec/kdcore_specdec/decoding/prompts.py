"""Prompts to decode from: the beginnings of documents that no model was trained on."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

import torch
from torch import Tensor

from kdcore.data.base import Data
from kdcore.errors import RunError
from kdcore.signals import IGNORE, Batch

BATCHES = 64
"""How many batches are looked through; prompts are spread evenly over what is found in them."""


def prompts_of(data: Data, count: int, *, at_least: int, at_most: int) -> list[Tensor]:
    """Prompts (1, n) int64 from the test split, or from the validation split where there is no test.

    A prompt is a document up to its first label (a question, the turns before an assistant's), or its first
    ``at_least`` tokens where that is more, as in plain text, which is labelled from its beginning.

    Args:
        data: gives batches of ``input_ids``, ``labels`` and, optionally, ``segment``.
        count: how many; fewer where there are not as many.
        at_least: tokens of a prompt.
        at_most: longer ones are passed over.

    Raises:
        RunError: there is none.
    """
    split = "test" if data.has_test else "val"
    loader = data.test_dataloader() if split == "test" else data.val_dataloader()
    found: list[Tensor] = []
    lengths: list[int] = []
    for batch in islice(loader, BATCHES):
        for ids, known in _documents(batch):
            n = max(known, at_least)
            lengths.append(n)
            if n < len(ids) and n <= at_most:
                found.append(ids[None, :n])
    if not found:
        shortest = f"the shortest prompt has {min(lengths)} tokens" if lengths else "there is no document"
        raise RunError(
            f"no document of the {split} split begins with a prompt of {at_least} to {at_most} tokens and goes on "
            f"after it ({shortest}): set `--prompt` lower, or ask for fewer `--tokens`, which share the context with it"
        )
    step = max(1, len(found) // count)
    return found[::step][:count]


def _documents(batch: Batch) -> Iterator[tuple[Tensor, int]]:
    """The first document of each row that has a label, and how many of its tokens come before the first label's."""
    ids, labels = batch["input_ids"], batch["labels"]
    segments = batch.get("segment", torch.ones_like(ids))
    for row, marks, segment in zip(ids, labels != IGNORE, segments, strict=True):
        labelled = marks.nonzero()
        if len(labelled):
            inside = segment == segment[labelled[0, 0]]
            yield row[inside], int(marks[inside].nonzero()[0, 0]) + 1
