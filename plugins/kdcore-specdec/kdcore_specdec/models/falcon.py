"""Falcon: a semi-autoregressive draft that predicts a block of tokens at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from kdcore_specdec.alignment import earlier, has_before, later
from kdcore_specdec.models.decoder import Attention, DraftLayer, Memory, inner_width
from kdcore_specdec.models.feature import TokenDraft, row_positions

if TYPE_CHECKING:
    from kdcore.signals import Batch, Signals
    from kdcore_specdec.decoding.base import Drafter
    from kdcore_specdec.models.causal import CausalLM

State = tuple[tuple[Tensor, Tensor], ...]
SHUT = -1e4
"""What closes a gate: its sigmoid is 0, and so is the sigmoid's gradient."""


class Falcon(TokenDraft):
    """LSTM over (token, feature) pairs, then one decoder layer whose attention is free within blocks of k rows.

    A row holds the token at t and the target's final hidden state at t - 1, and predicts the hidden state at t - 1 + k:
    the k rows of a block give the k next hidden states in one forward, and the target's head k tokens. Signals stand
    where all others stand, so ``hidden`` at t was predicted by the row at t + 1 - k.

    With ``batch["glance"]`` bool (N, T), those rows read the pair that they are to predict, k positions further on, in
    place of their own: what the loss `specdec.falcon` asks for.

    Args:
        vocabulary: of the target.
        width: width of the target.
        heads: of the attention.
        kv_heads: of its keys and values; as many as ``heads`` by default.
        hidden: inner width of the feed-forward part; 8/3 of ``width`` by default, as in Llama.
        block: k, tokens per forward.
        draft_vocabulary: how many tokens it tells apart, the most frequent ones; all by default.
        token_counts: how often each of the target's tokens occurs; the data counts them.
        target: the model of the recipe that it drafts for.
        rope_theta: base of the rotary frequencies.
        rms_norm_eps: of the norms.

    Raises:
        ValueError: a block below 2, heads that do not divide the width, or a vocabulary without counts.

    **Paper**: Gao et al., Falcon: Faster and Parallel Inference of Large Language Models through Enhanced
    Semi-Autoregressive Drafting and Custom-Designed Decoding Tree, 2024 (arXiv 2412.12639), section 3.
    **Deviation**: one decoder layer behind the two of the LSTM; no dropout; it proposes a chain of blocks, where the
    paper verifies a tree.
    """

    def __init__(
        self,
        *,
        vocabulary: int,
        width: int,
        heads: int,
        kv_heads: int | None = None,
        hidden: int | None = None,
        block: int = 2,
        draft_vocabulary: int | None = None,
        token_counts: list[int] | None = None,
        target: str = "target",
        rope_theta: float = 10000.0,
        rms_norm_eps: float = 1e-6,
    ) -> None:
        if block < 2:
            raise ValueError(f"block={block}: a semi-autoregressive draft gives 2 tokens at once, or more")
        super().__init__(
            vocabulary=vocabulary,
            width=width,
            draft_vocabulary=draft_vocabulary,
            token_counts=token_counts,
            target=target,
        )
        self.block = block
        stack = [nn.LSTM(inputs + 1, width, batch_first=True) for inputs in (2 * width, width)]
        for lstm in stack:
            _shut_on_demand(lstm.get_parameter("weight_ih_l0"))
        self.lstm = nn.ModuleList(stack)
        attention = Attention(width, width, heads, kv_heads or heads, rope_theta)
        self.layer = DraftLayer(attention, width, inner_width(width, hidden), eps=rms_norm_eps)

    def predict(self, batch: Batch, features: Tensor, known: Tensor) -> Signals:
        tokens, segment, k = batch["input_ids"], batch.get("segment"), self.block
        read, felt = tokens, features
        if "glance" in batch:
            read = torch.where(batch["glance"], earlier(tokens, k), tokens)
            felt = torch.where(batch["glance"].unsqueeze(-1), earlier(features, k), features)
        positions = row_positions(batch)
        rows, _ = self.over_time(read, felt, forget=~known)
        mask = block_mask(positions, segment, known, k)
        (out,) = self.layer(rows, positions, Memory(), mask=mask, step=False)
        return {
            "hidden": later(out, k - 1),
            "head": self.lm_head.weight,
            "predicts": has_before(tokens, segment, k),
        }

    def over_time(
        self, tokens: Tensor, features: Tensor, state: State | None = None, *, forget: Tensor | None = None
    ) -> tuple[Tensor, State]:
        """The LSTM's outputs (N, T, D), and its state after them.

        Args:
            tokens: int64 (N, T).
            features: (N, T, D).
            state: after the rows before.
            forget: bool (N, T), rows that are 0 and after which everything before is forgotten.
        """
        x = torch.cat([self.embed_tokens(tokens), features], -1)
        shut = x.new_zeros(*tokens.shape, 1) if forget is None else forget.unsqueeze(-1).to(x.dtype)
        after = []
        for i, lstm in enumerate(self.lstm):
            x, new = lstm(torch.cat([x, shut], -1), None if state is None else state[i])
            after.append(new)
        return x, tuple(after)

    def drafter(self, target: CausalLM) -> Drafter:
        from kdcore_specdec.decoding.falcon import BlockDrafter

        return BlockDrafter(self, target)


def block_mask(positions: Tensor, segment: Tensor | None, known: Tensor, block: int) -> Tensor:
    """bool (N, 1, T, T): a query sees the rows of its own document and block, whatever their order, and of all earlier
    blocks, but none without a feature; and always itself.

    Args:
        positions: int64 (N, T), of each row in its document; -1 for the first, which has no feature.
        segment: int64 (N, T), or ``None``.
        known: bool (N, T), the rows with a feature.
        block: rows in a block, counted from each document's start.
    """
    blocks = positions.div(block, rounding_mode="floor")
    mask = (blocks.unsqueeze(1) <= blocks.unsqueeze(2)) & known.unsqueeze(1)
    if segment is not None:
        mask = mask & (segment.unsqueeze(1) == segment.unsqueeze(2))
    own = torch.eye(positions.shape[1], dtype=torch.bool, device=positions.device)
    return (mask | own).unsqueeze(1)


def _shut_on_demand(weight: Tensor) -> None:
    """Let an LSTM's last input close the gates for what comes in, what is kept and what goes out.

    The cell and its output are exactly 0 then: so a document of a packed row starts with an empty state, although all
    of the row is one call. No gradient ever reaches these weights, as a closed gate has none.
    """
    with torch.no_grad():
        into, kept, new, out = weight[:, -1].chunk(4)
        for gate, value in ((into, SHUT), (kept, SHUT), (new, 0.0), (out, SHUT)):
            gate.fill_(value)
