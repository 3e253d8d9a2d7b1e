"""FSPAD: an EAGLE draft whose token picks from the feature, and whose features and logits part ways."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from kdcore_specdec.alignment import causal_mask
from kdcore_specdec.models.decoder import Attention, DraftLayer, Memory, SwiGLU, inner_width
from kdcore_specdec.models.feature import ChainDraft, row_positions

if TYPE_CHECKING:
    from kdcore.signals import Batch, Signals
    from kdcore_specdec.decoding.base import Drafter
    from kdcore_specdec.models.causal import CausalLM


class FSPAD(ChainDraft):
    """Feature sampling: ``h = fc([e; f]); h + down(silu(gate(e)) * up(norm(h)))``, then one decoder layer.

    f is the target's final hidden state at t - 1, e the embedding of the token at t: which of the tokens that f
    allows was drawn. Partial alignment: the layer's feed-forward part is twice as wide. One half of what it gives,
    ``hidden``, goes to the target's head; the other, ``feature`` (N, T, D), is held against the target's next hidden
    state and is what the next guess reads.

    Args:
        vocabulary: of the target.
        width: width of the target.
        heads: of the attention.
        kv_heads: of its keys and values; as many as ``heads`` by default.
        hidden: inner width of the feed-forward part and of the sampling; 8/3 of ``width`` by default.
        noise: in training, uniform noise in (-noise, noise) is added to the target's features, as in EAGLE.
        draft_vocabulary: how many tokens it tells apart, the most frequent ones; all by default.
        token_counts: how often each of the target's tokens occurs; the data counts them.
        target: the model of the recipe that it drafts for.
        rope_theta: base of the rotary frequencies.
        rms_norm_eps: of the norms.

    Raises:
        ValueError: heads that do not divide the width, negative noise, or a vocabulary without counts.

    **Paper**: Gui et al., Boosting Lossless Speculative Decoding via Feature Sampling and Partial Alignment
    Distillation, 2024 (arXiv 2408.15562); the wiring is that of the authors' published model.
    **Deviation**: it proposes a chain, where the paper builds EAGLE-2's draft tree.
    """

    def __init__(
        self,
        *,
        vocabulary: int,
        width: int,
        heads: int,
        kv_heads: int | None = None,
        hidden: int | None = None,
        noise: float = 0.1,
        draft_vocabulary: int | None = None,
        token_counts: list[int] | None = None,
        target: str = "target",
        rope_theta: float = 10000.0,
        rms_norm_eps: float = 1e-6,
    ) -> None:
        if not noise >= 0:
            raise ValueError(f"noise={noise} is negative: it is the width of the noise on the target's features")
        super().__init__(
            vocabulary=vocabulary,
            width=width,
            draft_vocabulary=draft_vocabulary,
            token_counts=token_counts,
            target=target,
        )
        inner = inner_width(width, hidden)
        self.noise = noise
        self.fc = nn.Linear(2 * width, width)
        self.sampling_norm = nn.RMSNorm(width, eps=rms_norm_eps)
        self.sampling = SwiGLU(width, inner, width)
        attention = Attention(width, width, heads, kv_heads or heads, rope_theta)
        self.layer = DraftLayer(attention, width, inner, eps=rms_norm_eps, outputs=2)

    def predict(self, batch: Batch, features: Tensor, known: Tensor) -> Signals:
        if self.training and self.noise:
            features = features + self.noise * (2 * torch.rand_like(features) - 1)
        tokens = batch["input_ids"]
        mask = causal_mask(tokens, batch.get("segment"), known)
        positions = row_positions(batch)
        hidden, feature = self.step(tokens, features, positions, Memory(), mask=mask, step=False)
        return {"hidden": hidden, "feature": feature, "head": self.lm_head.weight, "predicts": known}

    def step(
        self, tokens: Tensor, feature: Tensor, positions: Tensor, memory: Memory, *, mask: Tensor | None, step: bool
    ) -> tuple[Tensor, Tensor]:
        embedded = self.embed_tokens(tokens)
        mixed = self.fc(torch.cat([embedded, feature], -1))
        mixed = mixed + self.sampling(self.sampling_norm(mixed), gate=embedded)
        hidden, guess = self.layer(mixed, positions, memory, mask=mask, step=step)
        return hidden, guess

    def drafter(self, target: CausalLM) -> Drafter:
        from kdcore_specdec.decoding.eagle import ChainDrafter

        return ChainDrafter(self, (target.depth,), nn.Identity())
