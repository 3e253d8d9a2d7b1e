"""What a draft has to offer to speculative decoding, whatever kind it is. Batches of one, as in interactive use."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
from torch import Tensor


class Proposal(NamedTuple):
    """What a draft thinks comes next.

    Attributes:
        tokens: (k,) int64, in the target's vocabulary.
        probs: (k, V) over the target's vocabulary: the distributions that the tokens were drawn from, each given the
            tokens before it; ``None`` where each token was certain (greedy), whatever the target does.
    """

    tokens: Tensor
    probs: Tensor | None


class Sampler:
    """Picks tokens: the likeliest (temperature 0), or drawn from softmax(logits / temperature).

    Target and draft share one, so that both mean the same distribution.

    Args:
        temperature: 0 for greedy decoding.
        seed: of everything that is drawn.

    Raises:
        ValueError: ``temperature`` is negative.
    """

    def __init__(self, temperature: float = 0.0, seed: int = 0, device: torch.device | str = "cpu") -> None:
        if not temperature >= 0.0:
            raise ValueError(f"temperature={temperature} is negative: 0 is greedy, 1 samples the model as it is")
        self.temperature = temperature
        self.generator = torch.Generator(device=device).manual_seed(seed)

    @property
    def greedy(self) -> bool:
        return self.temperature == 0.0

    def probabilities(self, logits: Tensor) -> Tensor:
        """softmax(logits / temperature) over the last axis, in float32; only when not greedy."""
        return torch.softmax(logits.float() / self.temperature, -1)

    def pick(self, logits: Tensor) -> tuple[Tensor, Tensor | None]:
        """A token for logits (V,): a tensor () int64, and the distribution (V,) it was drawn from, if it was drawn."""
        if self.greedy:
            return logits.argmax(-1), None
        probs = self.probabilities(logits)
        return self.draw(probs), probs

    def draw(self, probs: Tensor) -> Tensor:
        """An index () drawn from weights (V,), which need not add up to 1."""
        return torch.multinomial(probs, 1, generator=self.generator)[0]

    def uniform(self, n: int) -> Tensor:
        """(n,) in [0, 1)."""
        return torch.rand(n, generator=self.generator, device=self.generator.device)


class Drafter(Protocol):
    """Proposes tokens for a target and hears which were taken; one object decodes one sequence after another.

    Between calls this always holds: the drafter knows the first n tokens of the sequence, and the target's hidden
    states of the first n - 1 of them. The target has not seen the n-th token yet: it reads it together with the next
    proposal. So a feature-level draft pairs the hidden state of position i with the token at i + 1.

    Attributes:
        layers: of the target, whose hidden states ``start`` and ``accept`` get, by the index given here (a negative one
            counts from the end; -1 is what the last decoder layer gives, before the final norm); ``()`` for a draft
            that reads tokens only, which gets ``None``.
    """

    layers: tuple[int, ...]

    def start(self, prompt: Tensor, layers: dict[int, Tensor] | None) -> None:
        """Forget everything and begin.

        Args:
            prompt: (1, n) int64, n >= 1.
            layers: the target's hidden states (1, n - 1, D) of all positions but the last; n may be 1.
        """

    def propose(self, k: int, sampler: Sampler) -> Proposal:
        """At most ``k`` tokens, k >= 1; fewer, even none, where there is nothing to go by."""

    def accept(self, tokens: Tensor, layers: dict[int, Tensor] | None) -> None:
        """Hear what became of the latest proposal; called exactly once after each.

        Args:
            tokens: (a + 1,) int64: the first ``a`` tokens of the proposal and the one that the target chose itself.
            layers: the target's hidden states (1, a + 1, D) of the position before them (the n-th token) and of the
                ``a`` accepted ones; that of the target's own choice comes with the next call.
        """
