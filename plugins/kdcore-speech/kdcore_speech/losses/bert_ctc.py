"""A language model's knowledge for a recogniser that decodes in parallel."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from kdcore.losses.base import Loss, Total
from kdcore.losses.functional import hide, upcast
from kdcore.signals import IGNORE, Batch, Signals
from torch import Tensor, nn

from kdcore_speech.losses.clips import in_clip


class BertCTC(Loss):
    """``h CE(y_u, q_u) + (1 - h) KL(p_u || q_u)`` of every token u, mean over tokens.

    q_u = what a small attention decoder says of token u from the tokens before it and from an activation of the
    student's encoder; p_u = what a masked language model says of it from all other tokens of the transcript; y_u =
    the token. The decoder belongs to this loss and is dropped with it: the student stays a CTC net. Where ``at:``
    names a tap with several activations (``encoder.blocks.(3..7)``), each gets a decoder and a loss of its own.

    The teacher reads text, so it is no model of a stage: the action ``speech.token_probabilities`` writes what it
    says, and ``data: {table: STAGE}`` lays it beside the transcripts.

    **Shape**: ``student.feature`` (N, T, D). The batch's ``tokens`` (N, U), -100 behind a transcript's end;
    ``soft_tokens`` (N, at least U, K), the K labels that are likeliest, and ``soft_probabilities`` of the same shape,
    0 where there is none.

    **Reduction**: ``count`` is the number of tokens.

    Args:
        vocabulary: how many labels; filled in from the data.
        blank: never a token, so it stands for the beginning of a transcript; filled in from the data.
        hard: h, the share of the tokens themselves. 0.5 by default, ours.
        layers: of the decoder; it is trained only, so one is enough for small vocabularies.
        width: of the decoder.
        heads: of its attention.
        dropout: in the decoder.

    Raises:
        ValueError: ``hard`` is no share, ``heads`` do not divide ``width``, or the activation is not (N, T, D).
        KeyError: the batch lacks a column.

    **Paper**: Hentschel et al., Keep Decoding Parallel with Effective Knowledge Distillation from Language Models to
    End-to-end Speech Recognisers, 2024 (arXiv 2401.11700): decoders on intermediate and final layers; Futami et al.,
    Distilling the Knowledge of BERT for Sequence-to-Sequence ASR, 2020 (arXiv 2008.03822): soft labels of the K
    likeliest tokens. **Deviations**: sizes of the decoder are ours; KL instead of cross-entropy, which differs by the
    teacher's entropy; where the papers' BERT and recogniser share a vocabulary, here the labels of the data are
    looked up in BERT's.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"student.feature"})
    signal: ClassVar[str] = "feature"

    decoder: Decoder

    def __init__(
        self,
        *,
        vocabulary: int,
        blank: int,
        hard: float = 0.5,
        layers: int = 1,
        width: int = 128,
        heads: int = 4,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        if not 0 <= hard <= 1:
            raise ValueError(f"hard={hard}: give a share from 0 to 1")
        if layers < 1 or heads < 1 or width < 2 or width % (2 * heads):
            raise ValueError(
                f"layers={layers}, width={width}, heads={heads}: width must be a multiple of 2 heads, and "
                "each at least 1"
            )
        self.blank, self.hard = blank, hard
        self._sizes = {"vocabulary": vocabulary, "layers": layers, "width": width, "heads": heads}
        self._dropout = dropout

    def setup(
        self, example: Mapping[str, Signals], facts: Mapping[str, Any], models: Callable[[str], nn.Module]
    ) -> None:
        feature = example["student"]["feature"]
        _check(feature)
        self.decoder = Decoder(feature.shape[-1], **self._sizes, dropout=self._dropout)

    def count(self, batch: Batch) -> Tensor | None:
        return torch.as_tensor((_column(batch, "tokens") != IGNORE).sum())

    def forward(self, student: Signals, teacher: Signals, batch: Batch, **roles: Any) -> Total:
        feature = student["feature"]
        _check(feature)
        tokens = _column(batch, "tokens")
        known, said = tokens != IGNORE, tokens.clamp(min=0)
        heard = in_clip(batch, feature.shape[1])
        before = torch.cat([torch.full_like(said[:, :1], self.blank), said[:, :-1]], 1)
        log_q = self.decoder(before, hide(feature, heard), heard).log_softmax(-1)
        hard = -log_q.gather(-1, said.unsqueeze(-1)).squeeze(-1)
        soft = _divergence(log_q, _column(batch, "soft_tokens"), _column(batch, "soft_probabilities"))
        terms = self.hard * hard + (1 - self.hard) * soft
        return Total(torch.where(known, terms, 0.0).sum().float(), known.sum())


class Decoder(nn.Module):
    """A transformer's decoder: tokens so far, and an activation to look at, to logits of the next token.

    Args:
        feature: width of the activation.
        vocabulary: of the tokens.
        layers: how many.
        width: of each.
        heads: of the attention.
        dropout: in each layer.
    """

    def __init__(self, feature: int, *, vocabulary: int, layers: int, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        self.memory = nn.Linear(feature, width)
        layer = nn.TransformerDecoderLayer(width, heads, 4 * width, dropout, batch_first=True, norm_first=True)
        self.layers = nn.TransformerDecoder(layer, layers, nn.LayerNorm(width))
        self.head = nn.Linear(width, vocabulary)

    def forward(self, tokens: Tensor, feature: Tensor, heard: Tensor) -> Tensor:
        """(N, U), (N, T, D), bool (N, T) -> (N, U, V) in float32."""
        kind = self.memory.weight.dtype  # half precision where the whole run is
        x = self.embedding(tokens) + positions(tokens.shape[1], self.embedding.embedding_dim, tokens.device).to(kind)
        future = nn.Transformer.generate_square_subsequent_mask(tokens.shape[1], device=tokens.device, dtype=kind)
        absent = torch.zeros(heard.shape, device=heard.device, dtype=kind).masked_fill(~heard, -torch.inf)
        found = self.layers(
            x, self.memory(feature.to(kind)), tgt_mask=future, tgt_is_causal=True, memory_key_padding_mask=absent
        )
        return upcast(self.head(found))


def positions(count: int, width: int, device: torch.device) -> Tensor:
    """Sines and cosines of falling frequency, (count, width), as in Attention Is All You Need, section 3.5."""
    frequency = torch.exp(torch.arange(0, width, 2, device=device) * (-math.log(10000.0) / width))
    angle = torch.arange(count, device=device).unsqueeze(1) * frequency
    return torch.stack([angle.sin(), angle.cos()], -1).flatten(1)


def _divergence(log_q: Tensor, labels: Tensor, probabilities: Tensor) -> Tensor:
    """KL of the listed labels, whose probabilities are made to add up to 1: (N, U, V), (N, U', K) twice -> (N, U)."""
    size = log_q.shape[1]
    labels, p = labels[:, :size].clamp(min=0), upcast(probabilities[:, :size])
    p = p / p.sum(-1, keepdim=True).clamp(min=1e-12)
    entropy: Tensor = torch.special.xlogy(p, p)
    return (entropy - p * log_q.gather(-1, labels)).sum(-1)


def _check(feature: Tensor) -> None:
    if feature.ndim != 3:
        raise ValueError(f"the activation has shape {tuple(feature.shape)}; a decoder looks at (N, T, D): tap a block")


def _column(batch: Batch, name: str) -> Tensor:
    if name not in batch:
        advice = (
            ""
            if name == "tokens"
            else (
                ": run the action `speech.token_probabilities` in a stage before, and give `data: {table: THAT_STAGE}`"
            )
        )
        raise KeyError(f"`speech.bert_ctc` reads the batch's `{name}`, which this data does not give{advice}")
    column: Tensor = batch[name]
    return column
