"""EAGLE-3: one decoder layer over fused hidden states of the target."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from kdcore_specdec.alignment import causal_mask, earlier
from kdcore_specdec.models.decoder import Attention, Memory, SwiGLU, inner_width
from kdcore_specdec.models.feature import ChainDraft, row_positions

if TYPE_CHECKING:
    from kdcore.signals import Batch, Signals
    from kdcore_specdec.decoding.base import Drafter
    from kdcore_specdec.models.causal import CausalLM


class Eagle3(ChainDraft):
    """One decoder layer over fused low, middle and high hidden states of a target, its embedding and head frozen.

    At position t it reads the token there and ``g = fc([h_low; h_middle; h_high])`` of the target at t - 1, and
    predicts the token after t. Its next guesses read its own output ``a`` in place of g, which the target has not
    computed yet. In training every position is continued like this for ``steps`` steps at once, fed with the data's
    own tokens: ``unrolled`` (N, J, T, D) holds the hidden states of step j = 0, 1, ..., that of position t about the
    token after t + j; ``heads`` (J, V', D) is the head of each. In eval mode there is the first step only.

    Args:
        vocabulary: of the target.
        target_layers: of the target, from 0; their outputs are fused. The paper takes a low, a middle and a high
            one; its authors' code those below layers 2, n / 2 and n - 3, which are 1, n / 2 - 1 and n - 4 here.
        width: width of the target.
        heads: of the attention.
        kv_heads: of its keys and values; as many as ``heads`` by default.
        hidden: inner width of the feed-forward part; 8/3 of ``width`` by default, as in Llama.
        steps: of the training-time test; 7 in the authors' code. Each costs as much as a forward.
        draft_vocabulary: how many tokens it tells apart, the most frequent ones; all by default, 32000 in the paper.
        token_counts: how often each of the target's tokens occurs; the data counts them.
        target: the model of the recipe that it drafts for.
        rope_theta: base of the rotary frequencies.
        rms_norm_eps: of the norms.
        context: the longest sequence it is said to be for, when it is exported.
        verifier: name or folder of the target as servers know it, written into an exported draft's config.

    Raises:
        ValueError: no layer, no step, heads that do not divide the width, or a vocabulary without counts.

    **Paper**: Li et al., EAGLE-3: Scaling up Inference Acceleration of Large Language Models via Training-Time Test,
    2025 (arXiv 2503.01840), section 3.
    **Deviation**: the head is the target's, as in the speculators format, where the authors train one of their own. The
    draft tree is not built: it proposes a chain.
    """

    def __init__(
        self,
        *,
        vocabulary: int,
        target_layers: list[int],
        width: int,
        heads: int,
        kv_heads: int | None = None,
        hidden: int | None = None,
        steps: int = 7,
        draft_vocabulary: int | None = None,
        token_counts: list[int] | None = None,
        target: str = "target",
        rope_theta: float = 10000.0,
        rms_norm_eps: float = 1e-6,
        context: int = 2048,
        verifier: str | None = None,
    ) -> None:
        if not target_layers or steps < 1:
            raise ValueError(
                f"target_layers={target_layers} must name a layer at least, and steps={steps} must be 1 or more"
            )
        super().__init__(
            vocabulary=vocabulary,
            width=width,
            draft_vocabulary=draft_vocabulary,
            token_counts=token_counts,
            target=target,
        )
        self.target_layers, self.steps = tuple(target_layers), steps
        self.context, self.verifier = context, verifier
        self.fc = nn.Linear(len(target_layers) * width, width, bias=False)
        attention = Attention(2 * width, width, heads, kv_heads or heads, rope_theta)
        layer = _Layer(attention, width, inner_width(width, hidden), rms_norm_eps)
        self.layers = nn.ModuleList([layer])
        self.norm = nn.RMSNorm(width, eps=rms_norm_eps)

    def features(self, target: Signals | None, like: Tensor) -> Tensor:
        """(N, T, layers x D), the target's hidden states side by side."""
        if target is None:
            return self._zeros(like, self.fc.in_features)
        missing = [f"layer.{i}" for i in self.target_layers if f"layer.{i}" not in target]
        if missing:
            wanted = ", ".join(map(str, self.target_layers))
            raise KeyError(
                f"reads {' and '.join(missing)} of `{self.reads[0]}`, which gives {', '.join(sorted(target))}: set "
                f"`task.layers: [{wanted}]`, and no layer that the target does not have"
            )
        return torch.cat([self._wide(target[f"layer.{i}"]) for i in self.target_layers], -1)

    def predict(self, batch: Batch, features: Tensor, known: Tensor) -> Signals:
        tokens, fused = batch["input_ids"], self.fc(features)
        mask, memory = causal_mask(tokens, batch.get("segment"), known), Memory()
        positions = row_positions(batch)
        unrolled = []
        for j in range(self.steps if self.training else 1):
            hidden, fused = self.step(earlier(tokens, j), fused, positions + j, memory, mask=mask, step=j > 0)
            unrolled.append(hidden)
        head = self.lm_head.weight
        return {
            "hidden": unrolled[0],
            "head": head,
            "unrolled": torch.stack(unrolled, 1),
            "heads": head.expand(len(unrolled), -1, -1),
            "predicts": known,
        }

    def step(
        self, tokens: Tensor, fused: Tensor, positions: Tensor, memory: Memory, *, mask: Tensor | None, step: bool
    ) -> tuple[Tensor, Tensor]:
        embedded = self.embed_tokens(tokens)
        out: Tensor = self.layers[0](embedded, fused, positions, memory, mask=mask, step=step)
        return self.norm(out), out

    def drafter(self, target: CausalLM) -> Drafter:
        from kdcore_specdec.decoding.eagle import ChainDrafter

        return ChainDrafter(self, self.target_layers, self.fc)


class _Layer(nn.Module):
    """Embedding and hidden state, each behind a norm, side by side into the attention; the rest is a Llama layer."""

    def __init__(self, attention: Attention, width: int, inner: int, eps: float) -> None:
        super().__init__()
        self.input_layernorm = nn.RMSNorm(width, eps=eps)
        self.hidden_norm = nn.RMSNorm(width, eps=eps)
        self.self_attn = attention
        self.post_attention_layernorm = nn.RMSNorm(width, eps=eps)
        self.mlp = SwiGLU(width, inner, width)

    def forward(
        self, embedded: Tensor, hidden: Tensor, positions: Tensor, memory: Memory, *, mask: Tensor | None, step: bool
    ) -> Tensor:
        both = torch.cat([self.input_layernorm(embedded), self.hidden_norm(hidden)], -1)
        hidden = hidden + self.self_attn(both, positions, memory, mask=mask, step=step)
        out: Tensor = hidden + self.mlp(self.post_attention_layernorm(hidden))
        return out
