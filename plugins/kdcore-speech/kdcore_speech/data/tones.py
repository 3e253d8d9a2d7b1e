"""Telephone keys in noise: a recogniser's data without any file."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property
from typing import ClassVar

import torch
from kdcore.data.base import Split
from kdcore.data.seeds import sample_seeds
from torch import Tensor

from kdcore_speech.data.base import FIRST_ID, Clips, SpeechData
from kdcore_speech.data.files import SPLIT_SEED
from kdcore_speech.vocabulary import Vocabulary

KEYS = ("123A", "456B", "789C", "*0#D")
"""The keypad: a row shares its low tone, a column its high one."""

LOW, HIGH = (697.0, 770.0, 852.0, 941.0), (1209.0, 1336.0, 1477.0, 1633.0)
"""Hz, of rows and columns (ITU-T Recommendation Q.23)."""

COUNTS: dict[Split, int] = {"train": 600, "val": 100, "test": 200}
"""Strings in each split."""

PRESSED = (2, 6)
"""At least and at most so many keys in a string."""

TONE, PAUSE = (0.045, 0.120), (0.030, 0.120)
"""Least and most seconds of a tone, and of the pause before it."""

DETUNED = 0.018
"""Frequencies are off by this share at most, either way."""

TWIST = 6.0
"""The two tones of a key differ by so many decibels at most, either way."""

NOISE = (-10.0, 20.0)
"""Decibels that the tones are above (or below) the noise; one draw for each string."""


class Tones(SpeechData):
    """Strings of 2 to 6 telephone keys, two tones each, in noise: 600 to train on, 100 for validation, 200 for the
    test.

    16 keys; transcripts are words, one a key. A string is a pure function of its split and number; no recipe's seed
    changes it. Held in memory.

    Args:
        batch_size: strings in a batch at most, over all devices together.
        batch_seconds: seconds in a batch of training at most, padding included.
        sample_rate: of the waveforms, 4000 at least.
        labels: keep the transcripts of only so many training strings, chosen by the recipe's seed; the others stay,
            for a teacher to speak about.

    Raises:
        ValueError: a rate that cannot hold the tones, or more labels than strings.

    **Source**: ITU-T Recommendation Q.23, Technical features of push-button telephone sets, 1988.
    """

    fact_names: ClassVar[tuple[str, ...]] = (
        "sample_rate", "audio_samples", "vocabulary", "blank", "symbols", "separator",
    )  # fmt: skip

    def __init__(
        self,
        *,
        batch_size: int = 32,
        batch_seconds: float | None = None,
        sample_rate: int = 8000,
        labels: int | None = None,
    ) -> None:
        super().__init__(batch_size=batch_size, batch_seconds=batch_seconds, sample_rate=sample_rate, labels=labels)
        if sample_rate < 4000:
            raise ValueError(f"sample_rate={sample_rate}: tones up to {HIGH[-1]:.0f} Hz need at least 4000")
        if labels is not None and not 1 <= labels <= COUNTS["train"]:
            raise ValueError(f"labels={labels}: give from 1 to {COUNTS['train']}, or leave it out to keep them all")
        longest = round(sample_rate * ((TONE[1] + PAUSE[1]) * PRESSED[1] + PAUSE[1]))
        self.facts = {"sample_rate": sample_rate, "audio_samples": longest}
        self.tell(self._vocabulary)

    @cached_property
    def _vocabulary(self) -> Vocabulary:
        return Vocabulary.of("".join(KEYS), "word")

    def clips(self, name: Split) -> Clips:
        ids = FIRST_ID[name] + torch.arange(COUNTS[name])
        drawn = [draw(seed, self.sample_rate) for seed in sample_seeds(SPLIT_SEED, ids).tolist()]
        sounds = [sound for sound, _ in drawn]
        tokens = [torch.tensor(self._vocabulary.encode(" ".join(keys))) for _, keys in drawn]
        return Clips(ids, [len(sound) / self.sample_rate for sound in sounds], sounds.__getitem__, {"tokens": tokens})


def draw(seed: int, sample_rate: int) -> tuple[Tensor, list[str]]:
    """A string: the waveform float32 (S,) in [-1, 1], and its keys."""
    generator = torch.Generator().manual_seed(seed)

    def between(limits: Sequence[float]) -> float:
        return limits[0] + (limits[1] - limits[0]) * float(torch.rand((), generator=generator))

    def silence() -> Tensor:
        return torch.zeros(round(sample_rate * between(PAUSE)))

    pieces: list[Tensor] = []
    keys: list[str] = []
    for _ in range(int(torch.randint(PRESSED[0], PRESSED[1] + 1, (), generator=generator))):
        row, column = torch.randint(0, 4, (2,), generator=generator).tolist()
        keys.append(KEYS[row][column])
        time = torch.arange(round(sample_rate * between(TONE))) / sample_rate
        twist = 10 ** (between((-TWIST, TWIST)) / 40)
        low, high = (
            torch.sin(2 * math.pi * (frequency * (1 + between((-DETUNED, DETUNED))) * time + between((0, 1))))
            for frequency in (LOW[row], HIGH[column])
        )
        pieces += [silence(), low * twist + high / twist]
    clean = torch.cat([*pieces, silence()])
    # two tones of amplitude 1 have a power of 1 together
    noisy = clean + torch.randn(len(clean), generator=generator) * 10 ** (-between(NOISE) / 20)
    return noisy / noisy.abs().max(), keys
