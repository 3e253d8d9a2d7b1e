"""Error rates of a whole data set: sums over all clips, not means over clips or batches."""

from __future__ import annotations

from typing import ClassVar

import torch
from kdcore.signals import IGNORE
from torch import Tensor
from torch.nn.functional import normalize
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from kdcore_speech.decoding import frames_needed
from kdcore_speech.text import Normaliser, normalised
from kdcore_speech.vocabulary import Vocabulary


class ErrorRate(Metric):
    """Substitutions, deletions and insertions, divided by the length of what was said.

    0 is best; above 1 where more is answered than was said. A clip without a transcript does not count. NaN before a
    transcript was seen.

    Args:
        symbols: of the labels; filled in from the data.
        blank: the number of the blank; filled in from the data.
        separator: between symbols in text; filled in from the data.
        normaliser: what both texts go through before they are compared; see :mod:`kdcore_speech.text`.

    Raises:
        ValueError: there is no such normaliser.
    """

    takes: ClassVar[str] = "transcripts"
    higher_is_better = False
    is_differentiable = False
    full_state_update = False

    added: Tensor

    def __init__(self, *, symbols: list[str], blank: int, separator: str, normaliser: Normaliser = "none") -> None:
        super().__init__()
        normalised("", normaliser)
        self.normaliser: Normaliser = normaliser
        self._vocabulary = Vocabulary(tuple(symbols), blank, separator)
        self.add_state("added", torch.zeros(2, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, heard: Tensor, tokens: Tensor) -> None:
        """Add a batch: labels (N, T) and transcripts (N, U), -100 behind their end."""
        self.added = self.added + self.shares(heard, tokens).sum(0).to(self.added.device)

    def compute(self) -> Tensor:
        return self.value_of(self.added)

    def value_of(self, shares: Tensor) -> Tensor:
        """The rate of added shares (..., 2) -> (...)."""
        return shares[..., 0] / shares[..., 1]

    def shares(self, heard: Tensor, tokens: Tensor) -> Tensor:
        """Errors and length of each clip, for tests between two nets: int64 (N, 2); keeps no state."""
        pairs = zip(tokens.tolist(), heard.tolist(), strict=True)
        return torch.tensor([self._share(said, answered) for said, answered in pairs])

    def _share(self, said: list[int], answered: list[int]) -> tuple[int, int]:
        if all(token == IGNORE for token in said):
            return 0, 0
        reference, hypothesis = (normalised(self._vocabulary.decode(ids), self.normaliser) for ids in (said, answered))
        return self.compared(reference, hypothesis)

    def compared(self, reference: str, hypothesis: str) -> tuple[int, int]:
        """Errors, and the length of the reference."""
        raise NotImplementedError


class WER(ErrorRate):
    """Word error rate: errors in words, divided by the words that were said.

    0 is best; above 1 where more is answered than was said. A clip without a transcript does not count. NaN before a
    transcript was seen. Counted by jiwer over the whole set.
    """

    def compared(self, reference: str, hypothesis: str) -> tuple[int, int]:
        import jiwer

        found = jiwer.process_words(reference, hypothesis)
        return _errors(found), found.hits + found.substitutions + found.deletions


class CER(ErrorRate):
    """Character error rate: errors in characters, spaces included, divided by the characters that were said.

    0 is best; above 1 where more is answered than was said. A clip without a transcript does not count. NaN before a
    transcript was seen. Counted by jiwer over the whole set.
    """

    def compared(self, reference: str, hypothesis: str) -> tuple[int, int]:
        import jiwer

        found = jiwer.process_characters(reference, hypothesis)
        return _errors(found), found.hits + found.substitutions + found.deletions


class Impossible(Metric):
    """The share of transcripts that have more tokens, and repeats, than the net makes frames of their clip.

    In [0, 1], 0 is best: a CTC net cannot say these, however long it learns. NaN before a transcript was seen.
    """

    takes: ClassVar[str] = "frames_tokens"
    higher_is_better = False
    is_differentiable = False
    full_state_update = False

    impossible: Tensor
    total: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("impossible", torch.tensor(0), dist_reduce_fx="sum")
        self.add_state("total", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, frames: Tensor, tokens: Tensor) -> None:
        """Add a batch: frames (N,) and transcripts (N, U), -100 behind their end."""
        said = (tokens != IGNORE).any(1)
        self.impossible = self.impossible + (said & (frames_needed(tokens) > frames)).sum()
        self.total = self.total + said.sum()

    def compute(self) -> Tensor:
        return self.impossible / self.total


class EER(Metric):
    """Equal error rate of telling by the cosine of two embeddings whether they have the same label, over all pairs.

    Where the share of different pairs that are taken for equal meets that of equal pairs that are taken for different,
    interpolated. In [0, 1], 0 is best, 0.5 is guessing. A label of -100 does not count. NaN without a pair of each
    kind.
    """

    takes: ClassVar[str] = "embedding_labels"
    higher_is_better = False
    is_differentiable = False
    full_state_update = False

    embeddings: list[Tensor]
    labels: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        self.add_state("embeddings", [], dist_reduce_fx="cat")
        self.add_state("labels", [], dist_reduce_fx="cat")

    def update(self, embedding: Tensor, labels: Tensor) -> None:
        """Add a batch: (N, D) and (N,)."""
        known = labels != IGNORE
        self.embeddings.append(embedding[known].float())
        self.labels.append(labels[known])

    def compute(self) -> Tensor:
        embeddings, labels = normalize(dim_zero_cat(self.embeddings), dim=-1), dim_zero_cat(self.labels)
        pairs = torch.ones(len(labels), len(labels), dtype=torch.bool, device=labels.device).triu(1)
        return equal_error_rate((embeddings @ embeddings.T)[pairs], (labels.unsqueeze(0) == labels.unsqueeze(1))[pairs])


def equal_error_rate(scores: Tensor, equal: Tensor) -> Tensor:
    """Of scores (M,) that should be high where ``equal`` (M,) is true."""
    ordered, order = scores.sort(descending=True)
    good = equal[order]
    # thresholds lie between different scores only
    last = torch.cat([ordered[1:] != ordered[:-1], ordered.new_ones(1, dtype=torch.bool)])
    start = scores.new_zeros(1)
    accepted = torch.cat([start, (~good).cumsum(0)[last] / (~good).sum()])
    refused = torch.cat([start + 1, 1 - good.cumsum(0)[last] / good.sum()])
    after = int((accepted >= refused).float().argmax())
    if after == 0:
        return scores.new_tensor(torch.nan)  # one of the kinds is missing
    gap, before = refused - accepted, after - 1
    share = gap[before] / (gap[before] - gap[after])
    return accepted[before] + share * (accepted[after] - accepted[before])


def _errors(found: object) -> int:
    """Of what jiwer found."""
    return sum(int(getattr(found, kind)) for kind in ("substitutions", "deletions", "insertions"))
