"""Rows continued by a model: what a draft really says, or what its target would have said."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kdcore.signals import IGNORE
from kdcore.task import evaluating
from kdcore_specdec.data.packing import Rows
from kdcore_specdec.models.causal import CausalLM


@dataclass(frozen=True)
class Continuation:
    """How rows are continued.

    Args:
        prompt: tokens of each row that are kept at least.
        new_tokens: tokens that are added at most; as many as the row has room for where ``None``.
        temperature: of the sampling; 0 takes the likeliest token.

    Raises:
        ValueError: no prompt, no new token, or a negative temperature.
    """

    prompt: int = 1
    new_tokens: int | None = None
    temperature: float = 1.0

    def __post_init__(self) -> None:
        if self.prompt < 1:
            raise ValueError(f"prompt={self.prompt}: keep at least one token, which the model continues")
        if self.new_tokens is not None and self.new_tokens < 1:
            raise ValueError(f"new_tokens={self.new_tokens}: give at least 1")
        if not self.temperature >= 0:
            raise ValueError(f"temperature={self.temperature} is negative: 0 takes the likeliest token")

    def known(self, rows: Rows) -> Tensor:
        """How many tokens of each row are kept, int64 (N,): all up to the first label, or ``prompt`` if that is more.

        At least one token is always left to be said anew.
        """
        first = (rows.labels != IGNORE).int().argmax(1) + 1
        return first.clamp(min=self.prompt).minimum((rows.segment > 0).sum(1) - 1)


@torch.no_grad()
def continued(model: nn.Module, rows: Rows, how: Continuation, *, end: int, pad: int, seed: int) -> Rows:
    """Rows whose ends the model has said anew, from the same prompts, with the same caches of keys and values for all.

    Rows of one document each. A row ends with the token ``end``, with ``how.new_tokens``, or where it is full; labels
    are what the model said. Reads the device once, for the number of steps.

    Raises:
        ValueError: the model cannot go on by itself.
    """
    if not isinstance(model, CausalLM):
        raise ValueError(
            f"a {type(model).__name__} cannot continue a text by itself: sample from an ordinary draft or from the "
            "target"
        )
    length = rows.input_ids.shape[1]
    known = how.known(rows)
    first, stop = int(known.min()), length if how.new_tokens is None else min(length, int(known.max()) + how.new_tokens)
    last = known + (length if how.new_tokens is None else how.new_tokens)
    generator = torch.Generator(device=known.device).manual_seed(seed)
    ids, finished = rows.input_ids.clone(), torch.zeros_like(known, dtype=torch.bool)
    spoken = torch.zeros_like(ids, dtype=torch.bool)
    # no compiling: shapes change with every token
    with evaluating([model]), torch.compiler.set_stance("force_eager"):
        found = model(ids[:, :first], use_cache=True, logits=False)
        for at in range(first, stop):
            said = _picked(found.hidden[:, -1] @ model.head.to(found.hidden.dtype).T, how.temperature, generator)
            spoken[:, at] = (at >= known) & (at < last) & ~finished
            ids[:, at] = torch.where(at < known, ids[:, at], torch.where(spoken[:, at], said, pad))
            finished |= spoken[:, at] & (said == end)
            if at + 1 < stop:
                found = model(ids[:, at : at + 1], past=found.past, use_cache=True, logits=False)
    return _as_rows(ids, spoken, known, pad)


def _picked(logits: Tensor, temperature: float, generator: torch.Generator) -> Tensor:
    if temperature == 0:
        return logits.argmax(-1)
    return torch.multinomial((logits.float() / temperature).softmax(-1), 1, generator=generator)[:, 0]


def _as_rows(ids: Tensor, spoken: Tensor, known: Tensor, pad: int) -> Rows:
    there = spoken | (torch.arange(ids.shape[1], device=ids.device) < known[:, None])
    ids = torch.where(there, ids, pad)
    labels = torch.full_like(ids, IGNORE)
    labels[:, :-1] = torch.where(spoken[:, 1:], ids[:, 1:], IGNORE)
    return Rows(ids, labels, there.long())
