"""One sequence, decoded token by token, or by proposals that the target verifies."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from kdcore_specdec.decoding.base import Drafter, Proposal, Sampler
from kdcore_specdec.decoding.cached import Cached
from kdcore_specdec.models.causal import CausalLM


@dataclass
class Acceptance:
    """How often proposals were taken.

    Attributes:
        tested: how many times the i-th token of a proposal was looked at: all before it had been accepted.
        accepted: how many times it was accepted.
        rounds: how many times the target verified a proposal, an empty one included.
    """

    tested: list[int] = field(default_factory=list)
    accepted: list[int] = field(default_factory=list)
    rounds: int = 0

    def add(self, proposed: int, accepted: int) -> None:
        """One round."""
        self.rounds += 1
        for counts, upto in ((self.tested, min(accepted + 1, proposed)), (self.accepted, accepted)):
            counts += [0] * (proposed - len(counts))
            for i in range(upto):
                counts[i] += 1

    def __iadd__(self, other: Acceptance) -> Acceptance:
        for mine, theirs in ((self.tested, other.tested), (self.accepted, other.accepted)):
            mine += [0] * (len(theirs) - len(mine))
            mine[: len(theirs)] = [a + b for a, b in zip(mine, theirs, strict=False)]
        self.rounds += other.rounds
        return self

    @property
    def rates(self) -> list[float]:
        """The share accepted at each position of a proposal, of the times it was looked at."""
        return [a / t if t else 0.0 for a, t in zip(self.accepted, self.tested, strict=True)]

    @property
    def mean_length(self) -> float:
        """Accepted tokens per round, *without* the one that the target chooses itself in every round."""
        return sum(self.accepted) / self.rounds if self.rounds else 0.0


@torch.inference_mode()
def autoregressive(
    target: CausalLM, prompt: Tensor, *, tokens: int, sampler: Sampler, stop: frozenset[int] = frozenset()
) -> list[int]:
    """One token at a time, with a cache: what speculative decoding has to beat.

    Args:
        target: in eval mode.
        prompt: (1, n) int64, n >= 1.
        tokens: how many new ones, at least 1.
        sampler: picks them.
        stop: tokens that end the sequence; they belong to it.

    Raises:
        ValueError: prompt and new tokens are longer than the model's context.
    """
    check_context(target, prompt, tokens, "target")
    cached, unread = Cached(target), prompt
    found: list[Tensor] = []
    for _ in range(tokens):
        token, _ = sampler.pick(cached.next_logits(unread))
        unread = token.view(1, 1)
        found.append(token)
        if stop and int(token) in stop:
            break
    return torch.stack(found).tolist()


@torch.inference_mode()
def speculative(
    target: CausalLM,
    drafter: Drafter,
    prompt: Tensor,
    *,
    tokens: int,
    k: int,
    sampler: Sampler,
    stop: frozenset[int] = frozenset(),
) -> tuple[list[int], Acceptance]:
    """The same sequence, or one from the same distribution, from proposals of ``k`` tokens.

    Args:
        target: in eval mode.
        drafter: proposes.
        prompt: (1, n) int64, n >= 1.
        tokens: how many new ones, at least 1.
        k: how many are proposed at a time; fewer near the end.
        sampler: picks them, the draft's and the target's.
        stop: tokens that end the sequence; they belong to it.

    Raises:
        ValueError: prompt and new tokens are longer than the target's context.

    **Paper**: Leviathan et al., Fast Inference from Transformers via Speculative Decoding, 2022 (arXiv 2211.17192);
    Chen et al., 2023 (arXiv 2302.01318).
    """
    check_context(target, prompt, tokens, "target")
    cached, acceptance = Cached(target, drafter.layers, can_forget=True), Acceptance()
    drafter.start(prompt, _read_prompt(cached, prompt))
    last, found = prompt[0, -1:], list[int]()
    while True:
        room = min(k, tokens - len(found) - 1)
        proposal = drafter.propose(room, sampler) if room > 0 else Proposal(last[:0], None)
        said = cached.read(torch.cat([last, proposal.tokens])[None])
        accepted, own = verify(proposal, cached.logits(said.hidden[0]), sampler)
        cached.forget(len(proposal.tokens) - accepted)
        taken = torch.cat([proposal.tokens[:accepted], own.view(1)])
        acceptance.add(len(proposal.tokens), accepted)
        ended = _append(found, taken.tolist(), stop)
        if ended or len(found) >= tokens:
            return found, acceptance
        drafter.accept(taken, _first(said.layers, accepted + 1) if drafter.layers else None)
        last = taken[-1:]


def verify(proposal: Proposal, logits: Tensor, sampler: Sampler) -> tuple[int, Tensor]:
    """How many tokens of a proposal are taken, and the token () that the target chooses after them.

    Greedy: as many as the target would have chosen. Sampling: token x with probability ``min(1, p(x) / q(x))``, p the
    target's distribution, q the draft's; in place of the first that is refused one drawn from ``max(0, p - q)``. What
    comes out is distributed as p, whatever q is.

    Args:
        proposal: k tokens.
        logits: (k + 1, V), the target's after each prefix of the proposal, the empty one included.
        sampler: picks.
    """
    tokens, k = proposal.tokens, len(proposal.tokens)
    if sampler.greedy:
        choices = logits.argmax(-1)
        accepted = int((choices[:k] == tokens).cumprod(0).sum())
        return accepted, choices[accepted]
    p = sampler.probabilities(logits)
    q = torch.nn.functional.one_hot(tokens, p.shape[-1]).to(p) if proposal.probs is None else proposal.probs
    at = tokens[:, None]
    fits = sampler.uniform(k) * q.gather(1, at)[:, 0] < p[:k].gather(1, at)[:, 0]
    accepted = int(fits.cumprod(0).sum())
    if accepted == k:
        return accepted, sampler.draw(p[k])
    rest = (p[accepted] - q[accepted]).clamp(min=0.0)
    # p and q may be equal but for rounding: then there is nothing left to draw from
    return accepted, sampler.draw(torch.where(rest.sum() > 0.0, rest, p[accepted]))


def check_context(model: CausalLM, prompt: Tensor, tokens: int, who: str) -> None:
    """Refuse a sequence that a model has no positions for.

    Raises:
        ValueError: it is longer than the model's context.
    """
    wanted, context = prompt.shape[1] + tokens, model.context
    if context is not None and wanted > context:
        raise ValueError(
            f"a prompt of {prompt.shape[1]} tokens and {tokens} new ones make {wanted}, and the {who} sees {context}: "
            "ask for fewer new tokens or shorten the prompt"
        )


def _read_prompt(cached: Cached, prompt: Tensor) -> dict[int, Tensor] | None:
    """Read all of the prompt but its last token, which is read together with the first proposal."""
    if prompt.shape[1] > 1:
        layers = cached.read(prompt[:, :-1]).layers
    else:
        weight = cached.model.head
        layers = dict.fromkeys(cached.layers, weight.new_empty(1, 0, weight.shape[1]))
    return layers if cached.layers else None


def _first(layers: dict[int, Tensor], n: int) -> dict[int, Tensor]:
    return {index: states[:, :n] for index, states in layers.items()}


def _append(found: list[int], taken: list[int], stop: frozenset[int]) -> bool:
    """Add what was taken, up to a token that ends the sequence; whether there was one."""
    for token in taken:
        found.append(token)
        if token in stop:
            return True
    return False
