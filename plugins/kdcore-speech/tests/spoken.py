"""Clips whose sound is what is said in them, and nets that hear it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from kdcore.data.base import Split
from torch import Tensor, nn

from kdcore_speech.data.base import Clips, SpeechData
from kdcore_speech.data.collate import NO_TRANSCRIPT
from kdcore_speech.vocabulary import Vocabulary

WORDS = Vocabulary.of(["one", "two", "three"], "word")
"""The blank is 0."""


class Spoken(SpeechData):
    """Training clips in which a sample is a tenth of a label; transcripts may say something else, or nothing."""

    def __init__(self, sounds: Sequence[Sequence[int]], transcripts: Sequence[str | None]) -> None:
        super().__init__(batch_size=2, batch_seconds=None, sample_rate=10)
        self._sounds = [torch.tensor(sound) / 10 for sound in sounds]
        self._transcripts = transcripts
        self.facts = {"sample_rate": 10, "audio_samples": max(map(len, sounds))}
        self.tell(WORDS)

    def clips(self, name: Split) -> Clips:
        tokens = [NO_TRANSCRIPT if text is None else torch.tensor(WORDS.encode(text)) for text in self._transcripts]
        ids = 100 + torch.arange(len(tokens))
        return Clips(ids, [len(sound) / 10 for sound in self._sounds], self._sounds.__getitem__, {"tokens": tokens})


class Labelled(Spoken):
    """Clips with labels."""

    def __init__(self, labels: Sequence[int]) -> None:
        super().__init__([[label] for label in labels], [None] * len(labels))
        self._labels_of = torch.tensor(labels)
        self.class_names = ("zero", "one", "two", "three", "four")

    def clips(self, name: Split) -> Clips:
        plain = super().clips(name)
        return plain.with_answers({"labels": self._labels_of})


class Heard(NamedTuple):
    """What a CTC net returns."""

    logits: Tensor
    frames: Tensor


class Ears(nn.Module):
    """A CTC net that hears every sample as it is; it remembers how it was called."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[int, bool, bool]] = []
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, audio: Tensor, audio_lengths: Tensor) -> Heard:
        self.calls.append((len(audio), self.training, torch.is_grad_enabled()))
        labels = (audio * 10).round().long()
        return Heard(nn.functional.one_hot(labels, len(WORDS)) * self.weight, audio_lengths)
