"""Is what comes out of speculative decoding what the target alone would have said?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kdcore_specdec.decoding.base import Drafter, Sampler
from kdcore_specdec.decoding.decode import speculative
from kdcore_specdec.models.causal import CausalLM

TIE = 1e-4
"""Two logits this close are a tie: their order depends on how many tokens are read at once."""

SUPPORT = 64
"""The second token's distribution is computed for this many likeliest first ones."""

EXPECTED = 5.0
"""Tokens that are expected fewer times than this are counted together, as a chi-squared test wants it."""

LEVEL = 1e-3
"""Output counts as changed where equal distributions would differ as much once in a thousand tests."""


@dataclass(frozen=True)
class Unchanged:
    """The answer, ``None`` where nothing could be found out, with its reason."""

    ok: bool | None
    why: str


def same_tokens(
    target: CausalLM, prompts: Sequence[Tensor], ours: Mapping[int, list[int]], theirs: Mapping[int, list[int]]
) -> Unchanged:
    """Greedy decoding: identical tokens, except after a tie.

    Args:
        target: in eval mode.
        prompts: (1, n) each.
        ours: what speculative decoding made of each, by its number.
        theirs: what autoregressive decoding made of it.
    """
    ties, wrong = 0, []
    for number, prompt in enumerate(prompts):
        one, other = ours[number], theirs[number]
        if one == other:
            continue
        at = next(i for i, (a, b) in enumerate(zip([*one, -1], [*other, -1], strict=False)) if a != b)
        gap = _gap(target, prompt, one, other, at)
        if gap < _tie(target):
            ties += 1
        else:
            wrong.append(f"prompt {number} differs at token {at}, where the logits are {gap:.2g} apart")
    if wrong:
        return Unchanged(False, f"the output is not the target's: {'; '.join(wrong)}")
    text = f"identical tokens for {len(prompts) - ties} of {len(prompts)} prompts"
    return Unchanged(True, text + (f"; {ties} part at logits that tie within {_tie(target):.2g}" if ties else ""))


@torch.inference_mode()
def _gap(target: CausalLM, prompt: Tensor, one: list[int], other: list[int], at: int) -> float:
    """How far apart the target's logits of the two tokens are at which two sequences part."""
    if at >= min(len(one), len(other)):
        return float("inf")  # one of them ended, which no tie explains
    read = torch.cat([prompt, torch.tensor([one[:at]], dtype=torch.int64, device=prompt.device)], 1)
    logits = target(read, logits=False).hidden[0, -1] @ target.head.T
    return abs(float(logits[one[at]]) - float(logits[other[at]]))


def _tie(target: CausalLM) -> float:
    """In half precision logits near 10 are rounded to 0.06."""
    return TIE if target.head.dtype in (torch.float32, torch.float64) else 32 * torch.finfo(target.head.dtype).eps


def same_distribution(
    target: CausalLM, drafter: Drafter, prompts: Sequence[Tensor], *, k: int, sampler: Sampler, draws: int
) -> Unchanged:
    """Sampling: the first two tokens of many draws against the target's own probabilities, by chi-squared tests.

    All draws go on from one prompt: the one after which the target is least certain.

    Args:
        target: in eval mode.
        drafter: proposes.
        prompts: (1, n) each.
        k: how many tokens are proposed at a time.
        sampler: not greedy.
        draws: how many.
    """
    prompt = max(prompts, key=lambda one: _entropy(target, one, sampler))
    # with three tokens to come, the first proposal has two
    drawn = torch.tensor(
        [speculative(target, drafter, prompt, tokens=3, k=k, sampler=sampler)[0][:2] for _ in range(draws)]
    )
    first, support, second = _distributions(target, prompt, sampler)
    kept = drawn[torch.isin(drawn[:, 0], support)]
    found = [chi_squared(drawn[:, 0], first), chi_squared(kept[:, 1], second)]
    tests = [p for p in found if p is not None]
    if not tests:
        return Unchanged(None, f"{draws} draws are too few for a chi-squared test of tokens that are so unlikely")
    p = min(1.0, len(tests) * min(tests))
    text = f"chi-squared tests of the first two tokens over {draws} draws: p = {p:.3g}"
    return Unchanged(p >= LEVEL, text if p >= LEVEL else f"{text}, the output is not distributed as the target's")


@torch.inference_mode()
def _entropy(target: CausalLM, prompt: Tensor, sampler: Sampler) -> float:
    """Of the first token, in nats."""
    probabilities = sampler.probabilities(target(prompt, logits=False).hidden[0, -1] @ target.head.T)
    return float(torch.special.entr(probabilities).sum())


@torch.inference_mode()
def _distributions(target: CausalLM, prompt: Tensor, sampler: Sampler) -> tuple[Tensor, Tensor, Tensor]:
    """The first token's probabilities (V,), its likeliest values, and the second's probabilities given one of these."""
    first = sampler.probabilities(target(prompt, logits=False).hidden[0, -1] @ target.head.T)
    weights, support = first.topk(min(SUPPORT, len(first)))
    read = torch.cat([prompt.expand(len(support), -1), support[:, None]], 1)
    following = sampler.probabilities(target(read, logits=False).hidden[:, -1] @ target.head.T)
    return first.cpu(), support.cpu(), (weights / weights.sum() @ following).cpu()


def chi_squared(drawn: Tensor, probabilities: Tensor) -> float | None:
    """The probability that draws (n,) from ``probabilities`` (V,) differ from them as much as these, or more.

    Values that are expected rarely are counted as one; ``None`` where that leaves nothing to compare.
    """
    from scipy.stats import chi2

    probabilities = probabilities.double() / probabilities.double().sum()
    expected = len(drawn) * probabilities
    counts = torch.bincount(drawn, minlength=len(expected)).double()
    often = expected >= EXPECTED
    counts, expected = (torch.cat([one[often], one[~often].sum()[None]]) for one in (counts, expected))
    if expected[-1] < EXPECTED and len(expected) > 1:  # the rest is rare as well: it joins the rarest of the others
        at = expected[:-1].argmin()
        for one in (counts, expected):
            one[at] += one[-1]
        counts, expected = counts[:-1], expected[:-1]
    if len(expected) < 2:
        return None
    statistic = ((counts - expected).square() / expected).sum()
    return float(chi2.sf(float(statistic), len(expected) - 1))
