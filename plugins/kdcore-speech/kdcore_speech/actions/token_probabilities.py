"""What a masked language model says of every token of the training transcripts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from kdcore.data.base import Data
from kdcore.errors import RunError
from kdcore.signals import IGNORE
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from kdcore_speech.actions.clips import training_clips

Models = Callable[[str], nn.Module]

SPACES = (" ", "|", "\N{LOWER ONE EIGHTH BLOCK}")
"""How tokenizers write the space between words where it is a token of its own."""


class TokenProbabilities:
    """A table of the training clips: ``id``, ``soft_tokens`` int64 (M, U, K), ``soft_probabilities`` (M, U, K).

    Each token of a transcript is masked in turn, and the model says what stands there, from the tokens on both sides.
    Of the data's labels the K likeliest are kept. ``speech.bert_ctc`` teaches them to a recogniser.

    The data's symbols must be tokens of the model: characters of a model of characters, words or word pieces of BERT
    (give the data its vocabulary). Other tokens are left out of the distribution.

    Args:
        path: the folder of a masked language model of transformers, with its tokenizer.
        top: K, how many labels are kept for each token.
        temperature: divides the model's logits.
        batch_size: masked transcripts at a time.

    Raises:
        ValueError: ``top`` or ``batch_size`` below 1, or ``temperature`` not above 0.

    **Paper**: Futami et al., Distilling the Knowledge of BERT for Sequence-to-Sequence ASR, 2020 (arXiv 2008.03822);
    Hentschel et al., 2024 (arXiv 2401.11700). **Deviation**: one utterance is the context, not its neighbours as well.
    """

    def __init__(self, *, path: Path, top: int = 8, temperature: float = 1.0, batch_size: int = 64) -> None:
        for name, value in (("top", top), ("batch_size", batch_size)):
            if value < 1:
                raise ValueError(f"{name}={value}: give at least 1")
        if not temperature > 0:
            raise ValueError(f"temperature={temperature} is not above 0: logits are divided by it")
        self._path, self._top, self._temperature, self._batch_size = Path(path), top, temperature, batch_size

    def __call__(self, models: Models, data: Data) -> dict[str, Tensor]:
        """
        Raises:
            RunError: the data holds no transcripts, there is no such model, or it does not know a symbol.
        """
        clips = training_clips(data, "token_probabilities", "tokens")
        tokenizer, model = self._opened()
        labels = [label for label in range(len(data.facts["symbols"])) if label != data.facts["blank"]]
        places = self._places(tokenizer, [data.facts["symbols"][label] for label in labels])
        reader = _Reader(model, tokenizer, torch.tensor(labels), places, self._temperature)
        found = [self._said(reader, torch.as_tensor(tokens)) for tokens in clips.answers["tokens"]]
        if not any(len(best) for best, _ in found):
            raise RunError("`speech.token_probabilities`: no training clip has a transcript")
        return {
            "id": clips.ids,
            "soft_tokens": pad_sequence([best for best, _ in found], batch_first=True, padding_value=IGNORE),
            "soft_probabilities": pad_sequence([p for _, p in found], batch_first=True),
        }

    def _said(self, reader: _Reader, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Of one transcript (U,): (U, K) twice."""
        known = tokens[tokens != IGNORE]
        places, size = torch.arange(len(known)), self._batch_size
        parts = [reader(known, places[start : start + size]) for start in range(0, len(known), size)]
        probabilities = torch.cat([torch.zeros(0, len(reader.labels)), *parts])
        best = probabilities.topk(min(self._top, len(reader.labels)))
        return reader.labels[best.indices], best.values

    def _opened(self) -> tuple[Any, nn.Module]:
        import transformers

        if not self._path.is_dir():
            raise RunError(
                f"{self._path}: there is no such folder; give one with a masked language model of transformers"
            )
        try:
            tokenizer = transformers.AutoTokenizer.from_pretrained(self._path)
            model = transformers.AutoModelForMaskedLM.from_pretrained(self._path)
        except (OSError, ValueError) as error:
            raise RunError(f"{self._path}: holds no masked language model of transformers: {error}") from error
        if tokenizer.mask_token_id is None:
            raise RunError(f"{self._path}: its tokenizer has no mask, so it is no masked language model")
        model.to("cuda" if torch.cuda.is_available() else "cpu")
        return tokenizer, model.eval()

    def _places(self, tokenizer: Any, symbols: list[str]) -> Tensor:
        """Where the model says each symbol."""
        vocabulary: dict[str, int] = tokenizer.get_vocab()
        found = {
            symbol: next(
                (vocabulary[one] for one in (SPACES if symbol == " " else (symbol,)) if one in vocabulary), None
            )
            for symbol in symbols
        }
        unknown = [symbol for symbol, place in found.items() if place is None]
        if unknown:
            raise RunError(
                f"{self._path}: its vocabulary of {len(vocabulary)} tokens lacks {len(unknown)} of the data's "
                f"{len(symbols)} symbols, such as {', '.join(map(repr, unknown[:5]))}: give the data a vocabulary of "
                "tokens that the model knows (`data.vocabulary`)"
            )
        return torch.tensor([found[symbol] for symbol in symbols])


class _Reader:
    """A masked language model that speaks the data's labels.

    Attributes:
        labels: int64 (V - 1,), all but the blank.
    """

    def __init__(self, model: nn.Module, tokenizer: Any, labels: Tensor, places: Tensor, temperature: float) -> None:
        self.labels = labels
        self._model, self._mask, self._temperature = model, tokenizer.mask_token_id, temperature
        self._places = places
        self._of_label = torch.zeros(int(labels.max()) + 1, dtype=torch.int64).index_copy(0, labels, places)
        marks = tokenizer(tokenizer.mask_token).input_ids
        middle = marks.index(self._mask)
        self._begin, self._end = torch.tensor(marks[:middle]).long(), torch.tensor(marks[middle + 1 :]).long()

    @torch.no_grad()
    def __call__(self, tokens: Tensor, masked: Tensor) -> Tensor:
        """What stands at each of the places ``masked`` (B,) of a transcript (U,): (B, V - 1) probabilities."""
        row = torch.cat([self._begin, self._of_label[tokens], self._end])
        rows = row.repeat(len(masked), 1)
        at = masked + len(self._begin)
        rows[torch.arange(len(masked)), at] = self._mask
        device = next(self._model.parameters()).device
        logits: Tensor = self._model(input_ids=rows.to(device)).logits[torch.arange(len(masked)), at.to(device)]
        return (logits.float().cpu()[:, self._places] / self._temperature).softmax(-1)
