"""What a teacher hears in the training clips, as their transcripts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Literal

import torch
from kdcore.data.base import Data
from kdcore.errors import RunError
from kdcore.signals import IGNORE
from kdcore.task import evaluating
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from kdcore_speech.actions.clips import training_clips
from kdcore_speech.data.base import Clips, SpeechData
from kdcore_speech.decoding import greedy
from kdcore_speech.metrics import WER
from kdcore_speech.text import Normaliser

Models = Callable[[str], nn.Module]


class Transcribe:
    """A table of the training clips with the transcripts that a model gives them: ``id``, ``tokens`` (M, U).

    A later stage with ``data: {table: THIS_STAGE}`` trains on these: sequence-level distillation, where they replace
    what people wrote, and pseudo-labels, where people wrote nothing. A CTC net is decoded by its best path. A
    sequence-to-sequence net has a method ``transcribe(audio, audio_lengths) -> tokens (N, U)``, -100 behind each end,
    and is asked for it.

    A clip in which nothing is heard stays, without a transcript: it may teach frames. How far the model is from what
    people wrote is said, and written into the report.

    Args:
        model: of the recipe, which hears.
        known: what becomes of transcripts that are known: ``replace`` them, as Kim and Rush do, or ``keep`` them and
            only fill the gaps that ``data.labels`` or a manifest without ``text`` leaves.
        max_wer: leaves a clip out where the model's word error rate is above this; 0.1 in the paper. A clip whose
            transcript nobody knows cannot be judged, and stays. Not with ``known: keep``.
        normaliser: of both texts, for ``max_wer``.
        batch_size: clips at a time.

    Raises:
        ValueError: ``max_wer`` is below 0, or given with ``known: keep``; ``batch_size`` is below 1.

    **Paper**: Kim and Rush, Sequence-Level Knowledge Distillation, 2016 (arXiv 1606.07947), section 3.2; Takashima, Li,
    Kawai, An Investigation of a Knowledge Distillation Method for CTC Acoustic Models, ICASSP 2018; ``max_wer``:
    Gandhi, von Platen, Rush, Distil-Whisper, 2023 (arXiv 2311.00430). **Deviation**: the best path instead of a beam,
    and one hypothesis a clip, where Takashima et al. use several.
    """

    def __init__(
        self,
        *,
        model: str,
        known: Literal["replace", "keep"] = "replace",
        max_wer: float | None = None,
        normaliser: Normaliser = "none",
        batch_size: int = 16,
    ) -> None:
        if max_wer is not None and not max_wer >= 0:
            raise ValueError(f"max_wer={max_wer}: give a rate of 0 or more, or leave it out to keep every clip")
        if max_wer is not None and known == "keep":
            raise ValueError(
                f"max_wer={max_wer}: it judges by transcripts that are known, and `known: keep` keeps these"
            )
        if batch_size < 1:
            raise ValueError(f"batch_size={batch_size}: give at least 1")
        self._model, self._known, self._max_wer, self._batch_size = model, known, max_wer, batch_size
        self._normaliser: Normaliser = normaliser

    def __call__(self, models: Models, data: Data) -> dict[str, Tensor]:
        """
        Raises:
            RunError: the data holds no clips with transcripts, the model does not transcribe, or no clip is left.
        """
        clips = training_clips(data, "transcribe", "tokens")
        truth = clips.answers["tokens"]
        heard: list[Tensor] = [torch.empty(0)] * len(clips)
        for row, tokens in self._heard(models(self._model), clips, data.facts["blank"]):
            heard[row] = tokens
        known = torch.tensor([bool((one != IGNORE).any()) for one in truth])
        errors = self._errors(heard, truth, data)
        kept = self._kept(errors, known, data)
        if self._known == "keep":
            heard = [old if was else new for old, new, was in zip(truth, heard, known.tolist(), strict=True)]
        tokens = _padded(heard)[kept]
        return {"id": clips.ids[kept], "tokens": tokens[:, : max(1, int((tokens != IGNORE).sum(1).max()))]}

    def _heard(self, model: nn.Module, clips: Clips, blank: int) -> Iterator[tuple[int, Tensor]]:
        """The tokens (U,) of each clip, beside its row; clips of similar length together."""
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        order = sorted(range(len(clips)), key=clips.seconds.__getitem__)
        model.to(device)
        try:
            with evaluating([model]), torch.no_grad():
                for start in range(0, len(order), self._batch_size):
                    rows = order[start : start + self._batch_size]
                    batch = SpeechData.collate([clips[row] for row in rows])
                    sound = batch["audio"].to(device), batch["audio_lengths"].to(device)
                    for row, tokens in zip(rows, self._decoded(model, sound, blank).cpu(), strict=True):
                        yield row, tokens[tokens != IGNORE]
        finally:
            model.cpu()

    def _decoded(self, model: nn.Module, sound: tuple[Tensor, Tensor], blank: int) -> Tensor:
        speaks: Callable[..., Tensor] | None = getattr(model, "transcribe", None)
        if speaks is not None:
            return speaks(*sound)
        found: Any = model(*sound)
        if not (hasattr(found, "logits") and hasattr(found, "frames")):
            raise RunError(
                f"`speech.transcribe`: `{self._model}` returned a {type(found).__name__}; a CTC net returns `logits` "
                "and `frames`, a sequence-to-sequence net has a method `transcribe`"
            )
        return greedy(found.logits, found.frames, blank)

    def _errors(self, heard: list[Tensor], truth: Any, data: Data) -> Tensor:
        """Words that are wrong, and words, of each clip: (M, 2); (0, 0) where the truth is not known."""
        facts = data.facts
        rate = WER(
            symbols=facts["symbols"], blank=facts["blank"], separator=facts["separator"], normaliser=self._normaliser
        )
        return rate.shares(_padded(heard), _padded(list(truth)))

    def _kept(self, errors: Tensor, known: Tensor, data: Data) -> Tensor:
        """The rows that stay; says what was heard."""
        wrong, words = errors.unbind(1)
        limit = float("inf") if self._max_wer is None else self._max_wer
        kept = (~known | (wrong <= limit * words)).nonzero().flatten()
        if len(kept) == 0:
            raise RunError(
                f"`speech.transcribe`: `{self._model}` has a word error rate above {self._max_wer} in all {len(known)} "
                "clips: was it trained on this vocabulary? Raise `max_wer`, or leave it out"
            )
        said = f"`{self._model}` transcribed {len(known)} training clips"
        if words.sum() > 0:
            said += (
                f", with a word error rate of {wrong.sum() / words.sum():.3f} in the {int(known.sum())} that are known"
            )
        if len(kept) < len(known):
            said += f"; {len(known) - len(kept)} above {self._max_wer} were left out"
        data.notes.append(said)
        return kept


def _padded(rows: list[Tensor]) -> Tensor:
    """(M, U), one column at least."""
    return pad_sequence([torch.empty(1), *rows], batch_first=True, padding_value=IGNORE)[1:].long()
