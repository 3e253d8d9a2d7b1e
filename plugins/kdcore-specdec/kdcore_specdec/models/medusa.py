"""Medusa: several heads on the target's last hidden state, each for a token further ahead."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdcore_specdec.models.feature import FeatureDraft

if TYPE_CHECKING:
    from kdcore.signals import Batch, Signals
    from kdcore_specdec.decoding.base import Drafter
    from kdcore_specdec.models.causal import CausalLM


class Medusa(FeatureDraft):
    """Head k = 1, ..., K: ``softmax(W2_k (SiLU(W1_k h) + h))`` is the token k + 1 after the position of h.

    h is the target's final hidden state at t - 1, where its own head gives the token at t; so at position t head k is
    about the token after t + k - 1, and ``logits`` are those of the first. ``unrolled`` (N, K, T, D) holds what each
    W2 reads and ``heads`` (K, V', D) these. W1 starts at 0 and W2 as the target's head: an untrained draft repeats
    what the target said of the token before.

    Args:
        vocabulary: of the target.
        width: width of the target.
        heads: K; 5 in the paper.
        draft_vocabulary: how many tokens it tells apart, the most frequent ones; all by default. Every head has as many
            rows, so that it decides the draft's size.
        token_counts: how often each of the target's tokens occurs; the data counts them.
        target: the model of the recipe that it drafts for.

    Raises:
        ValueError: no head, or a vocabulary without counts.

    **Paper**: Cai et al., Medusa: Simple LLM Inference Acceleration Framework with Multiple Decoding Heads, 2024
    (arXiv 2401.10774), section 2.1.1.
    **Deviation**: it proposes a chain, the likeliest (or a drawn) token of each head, where the paper verifies a tree.
    """

    started: Tensor

    def __init__(
        self,
        *,
        vocabulary: int,
        width: int,
        heads: int = 5,
        draft_vocabulary: int | None = None,
        token_counts: list[int] | None = None,
        target: str = "target",
    ) -> None:
        if heads < 1:
            raise ValueError(f"heads={heads}: there must be one at least")
        super().__init__(
            vocabulary=vocabulary,
            width=width,
            draft_vocabulary=draft_vocabulary,
            token_counts=token_counts,
            target=target,
        )
        self.w1 = nn.Parameter(torch.zeros(heads, width, width))
        self.w2 = nn.Parameter(torch.zeros(heads, self.size, width))
        # trained heads, read back from a file, must not start again
        self.register_buffer("started", torch.zeros((), dtype=torch.bool))

    def adopt(self, embedding: Tensor, head: Tensor) -> None:
        if not self.started:
            self.w2.copy_(head.index_select(0, self.tokens).expand_as(self.w2))
            self.started.fill_(True)

    def predict(self, batch: Batch, features: Tensor, known: Tensor) -> Signals:
        unrolled = self.ahead(features)
        return {
            "hidden": unrolled[:, 0],
            "head": self.w2[0],
            "unrolled": unrolled,
            "heads": self.w2,
            "predicts": known,
        }

    def ahead(self, feature: Tensor) -> Tensor:
        """The target's final hidden states (N, T, D) -> what each head's W2 reads, (N, K, T, D)."""
        return F.silu(torch.einsum("ntd,ked->nkte", feature, self.w1)) + feature.unsqueeze(1)

    def drafter(self, target: CausalLM) -> Drafter:
        from kdcore_specdec.decoding.medusa import HeadsDrafter

        return HeadsDrafter(self, target)
