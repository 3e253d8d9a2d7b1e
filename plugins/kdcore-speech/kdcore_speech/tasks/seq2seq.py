"""Recognition from sequence to sequence: a decoder writes the transcript, token after token."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from kdcore.signals import IGNORE, Batch, Signals
from kdcore.task import Task
from torch import Tensor, nn
from torch.nn.functional import pad

from kdcore_speech.tasks.audio import audio_of, example_audio, told


class Seq2Seq(Task):
    """Transcripts of clips, one token after the other.

    A batch holds ``audio`` float32 (N, S), ``audio_lengths`` int64 (N,) and ``tokens`` int64 (N, U), -100 behind a
    transcript's end; a row of -100 only has no transcript. In training :meth:`prepare` makes of them ``labels``
    (N, U + 1), with the blank as the token that ends a transcript, and ``mask``, so that the core's ``cross_entropy``
    and ``kl`` leave out the padding. A model is called with audio, lengths and labels, returns
    :class:`~kdcore_speech.models.transcriber.Transcribed`, and with ``listen`` writes down what it hears: where a batch
    brings no ``labels``, that is when it is scored.

    Args:
        vocabulary: how many tokens.
        blank: the token that starts and ends a transcript.
        sample_rate: of the audio.

    Raises:
        ValueError: a vocabulary without tokens, or a blank that is none of them.
    """

    fact_names: ClassVar[tuple[str, ...]] = (
        "vocabulary", "blank", "symbols", "separator", "sample_rate", "audio_samples",
    )  # fmt: skip
    primary: ClassVar[tuple[str, str]] = ("wer", "min")
    class_axis: ClassVar[int] = -1

    def __init__(self, *, vocabulary: int, blank: int, sample_rate: int) -> None:
        if vocabulary < 2 or not 0 <= blank < vocabulary:
            raise ValueError(f"vocabulary={vocabulary} with blank={blank}: give the blank and one token at least")
        self.facts = {"vocabulary": vocabulary, "blank": blank, "sample_rate": sample_rate}

    def prepare(self, batch: Batch, models: Callable[[str], nn.Module]) -> Batch:
        """With ``labels`` and ``mask``."""
        labels = self._labels(batch)
        return {**batch, "labels": labels, "mask": labels != IGNORE}

    def signals(self, model: nn.Module, batch: Batch, others: Mapping[str, Signals]) -> Signals:
        """``logits`` (N, U, V), aligned with ``labels``; ``frames`` int64 (N,) of the encoder; ``heard`` int64 (N, L),
        the transcript that the net writes where the batch brings no ``labels``, otherwise its likeliest tokens after
        the true ones; and whatever else the model tells by name.

        Raises:
            KeyError: the batch has no ``audio`` or no ``tokens``.
            ValueError: the model returns something else.
        """
        found = model(*audio_of(batch), self._labels(batch), listen="labels" not in batch)
        signals = told(found)
        if not {"logits", "frames", "heard"} <= signals.keys():
            raise ValueError(
                f"the model returned a {type(found).__name__}; a sequence-to-sequence net returns `logits` (N, U, "
                f"{self.facts['vocabulary']}), `frames` (N,) and `heard` (N, L) by name"
            )
        shape = signals["logits"].shape
        if len(shape) != 3 or shape[-1] != self.facts["vocabulary"]:
            raise ValueError(
                f"the model gave logits of the shape {tuple(shape)}; the data has {self.facts['vocabulary']} tokens: "
                f"(N, U, {self.facts['vocabulary']}) is wanted. Student and teacher need the same vocabulary (give the "
                "data the teacher's)"
            )
        return signals

    def observe(self, student: Signals, teachers: Mapping[str, Signals], batch: Batch) -> dict[str, tuple[Any, ...]]:
        """``transcripts``: what is heard and ``tokens``; ``preds_target``: logits and labels; with a teacher
        ``student_teacher``: the logits of all tokens that were said, (M, V) each."""
        labels = self._labels(batch)
        observed: dict[str, tuple[Any, ...]] = {"preds_target": (student["logits"], labels)}
        if "tokens" in batch:
            observed["transcripts"] = student["heard"], batch["tokens"]
        first = next(iter(teachers.values()), None)
        if first is not None:
            said = labels != IGNORE
            observed["student_teacher"] = student["logits"][said], first["logits"][said]
        return observed

    def example(self, n: int) -> Batch:
        """``n`` clips of noise, always the same, as long as the longest one of training, with a transcript of one
        token, as a batch of training has it.

        Raises:
            ValueError: the facts tell no length.
        """
        token = 1 if self.facts["blank"] == 0 else 0
        batch = {**example_audio(self.facts, n), "tokens": torch.full((n, 1), token), "id": torch.arange(n)}
        labels = self._labels(batch)
        return {**batch, "labels": labels, "mask": labels != IGNORE}

    def chance(self) -> float:
        """1: what an empty transcript has."""
        return 1.0

    def deploy(self, model: nn.Module) -> nn.Module:
        """``audio`` (N, S), ``audio_lengths`` (N,) -> tokens int64 (N, L), -100 behind them, as the net writes them.

        L is the net's ``limit``. The model is not copied, and is put into eval mode.
        """
        return _Deployed(model).eval()

    def _labels(self, batch: Batch) -> Tensor:
        """Tokens and the end behind them: int64 (N, U + 1); a row without a transcript stays so."""
        if "labels" in batch:
            found: Tensor = batch["labels"]
            return found
        if "tokens" not in batch:
            raise KeyError(f"this task reads `tokens`, the batch holds: {', '.join(sorted(batch))}")
        longer = pad(batch["tokens"], (0, 1), value=IGNORE)
        said = (longer != IGNORE).sum(1, keepdim=True)
        place = torch.arange(longer.shape[1], device=longer.device)
        return longer.masked_fill((place == said) & (said > 0), self.facts["blank"])


class _Deployed(nn.Module):
    """The net, writing; as wide as its limit, whatever it writes."""

    dynamic: ClassVar[dict[str, list[int]]] = {"audio": [1]}

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, audio: Tensor, audio_lengths: Tensor) -> Tensor:
        written: Tensor = self.model.transcribe(audio, audio_lengths)
        return pad(written, (0, self.model.limit - written.shape[1]), value=IGNORE)
