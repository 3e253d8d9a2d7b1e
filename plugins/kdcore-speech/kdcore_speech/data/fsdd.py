"""The Free Spoken Digit Dataset: single digits, or strings of digits made by joining recordings."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Literal, NamedTuple

import torch
from kdcore.data.bad import BadSampleError
from kdcore.data.base import Split
from kdcore.data.seeds import sample_seeds
from kdcore.errors import RunError
from torch import Tensor

from kdcore_speech.data.base import FIRST_ID, Clips, SpeechData
from kdcore_speech.data.files import SPLIT_SEED
from kdcore_speech.data.reading import Segment, read
from kdcore_speech.vocabulary import Vocabulary

NAME = re.compile(r"(\d)_([a-z]+)_(\d+)\.(?:flac|wav)")
"""``{digit}_{speaker}_{index}``."""

DIGITS = "0123456789"

TESTED, VALIDATED = range(5), range(5, 10)
"""Which recordings of each digit and speaker are in the official test split, and which we validate on."""

STRINGS: dict[Split, int] = {"val": 200, "test": 300}
"""Strings in the splits that are not trained on."""

LARGEST_GAP = 0.2
"""Seconds of silence between two digits at most."""


class Recording(NamedTuple):
    """A file, by its name."""

    path: Path
    digit: int
    speaker: str
    take: int


class FSDD(SpeechData):
    """Recordings of single spoken digits, named ``{digit}_{speaker}_{index}.flac`` (or ``.wav``), 8 kHz.

    The official split: index 0 to 4 of each digit and speaker is the test; 5 to 9 is validation here. With
    ``leave_out`` the test is all that one speaker says, who is in no other split.

    With ``strings`` a clip is 3 to 7 recordings of one speaker and split, drawn by the string's id and no recipe's
    seed, with up to 0.2 s of silence between them: transcripts of words ``0`` to ``9``, for a recogniser. Without, a
    clip is one recording with a label.

    Args:
        path: the folder of the recordings.
        strings: how many strings there are to train on; left out, single digits.
        digits: [least, most] digits in a string.
        label: what the label of a single digit is.
        leave_out: a speaker.
        sample_rate: of the waveforms; the recordings are resampled where it is not 8000.
        batch_size: clips in a batch at most, over all devices together.
        batch_seconds: seconds in a batch of training at most, padding included.
        labels: keep the labels or transcripts of only so many training clips, chosen by the recipe's seed; the others
            stay, for a teacher to speak about.

    Raises:
        RunError: the folder holds no such recordings, one cannot be read, or nobody is called ``leave_out``.
        ValueError: no or impossible numbers of strings and digits.

    **Source**: Jackson et al., Free Spoken Digit Dataset, 2018 (CC BY-SA 4.0).
    """

    fact_names: ClassVar[tuple[str, ...]] = (
        "sample_rate", "audio_samples", "classes", "vocabulary", "blank", "symbols", "separator",
    )  # fmt: skip

    def __init__(
        self,
        *,
        path: Path,
        strings: int | None = None,
        digits: tuple[int, int] = (3, 7),
        label: Literal["digit", "speaker"] = "digit",
        leave_out: str | None = None,
        sample_rate: int = 8000,
        batch_size: int = 32,
        batch_seconds: float | None = None,
        labels: int | None = None,
    ) -> None:
        super().__init__(batch_size=batch_size, batch_seconds=batch_seconds, sample_rate=sample_rate, labels=labels)
        if strings is not None and not (strings >= 1 and 1 <= digits[0] <= digits[1]):
            raise ValueError(
                f"strings={strings} of {list(digits)} digits: give 1 or more, and [least, most] of 1 or more"
            )
        self._files = divided(recordings_in(Path(path)), leave_out)
        self._counts = None if strings is None else {"train": strings, **STRINGS}
        self._digits, self._label = digits, label
        self._vocabulary = Vocabulary.of(DIGITS, "word")
        speakers = sorted({one.speaker for files in self._files.values() for one in files})
        self._classes = tuple(DIGITS) if label == "digit" else tuple(speakers)
        self.facts = {"sample_rate": sample_rate}
        train = self._ready["train"] = self.clips("train")
        self.facts["audio_samples"] = round(max(train.seconds) * sample_rate)
        if strings is None:
            self.class_names = self._classes
            self.facts["classes"] = len(self._classes)
        else:
            self.tell(self._vocabulary)

    def clips(self, name: Split) -> Clips:
        """
        Raises:
            RunError: a recording cannot be read.
        """
        files = self._files[name]
        try:
            sounds = [read(Segment(file.path), self.sample_rate) for file in files]
        except BadSampleError as error:
            raise RunError(str(error)) from error
        if self._counts is not None:
            return self._strings(name, files, sounds, self._counts[name])
        labels = [file.digit if self._label == "digit" else self._classes.index(file.speaker) for file in files]
        ids = FIRST_ID[name] + torch.arange(len(files))
        return Clips(ids, self._seconds_of(sounds), sounds.__getitem__, {"labels": torch.tensor(labels)})

    def _strings(self, name: Split, files: Sequence[Recording], sounds: Sequence[Tensor], count: int) -> Clips:
        by_speaker: dict[str, list[int]] = {}
        for place, file in enumerate(files):
            by_speaker.setdefault(file.speaker, []).append(place)
        ids = FIRST_ID[name] + torch.arange(count)
        joined, tokens = [], []
        for seed in sample_seeds(SPLIT_SEED, ids).tolist():
            places, gaps = draw(list(by_speaker.values()), self._digits, seed)
            silences = [sounds[0].new_zeros(round(gap * self.sample_rate)) for gap in gaps]
            pieces = [
                piece for pair in zip(silences, (sounds[place] for place in places), strict=True) for piece in pair
            ]
            joined.append(torch.cat(pieces))
            tokens.append(torch.tensor(self._vocabulary.encode(" ".join(str(files[place].digit) for place in places))))
        return Clips(ids, self._seconds_of(joined), joined.__getitem__, {"tokens": tokens})

    def _seconds_of(self, sounds: Sequence[Tensor]) -> list[float]:
        return [len(sound) / self.sample_rate for sound in sounds]


def draw(speakers: Sequence[Sequence[int]], digits: tuple[int, int], seed: int) -> tuple[list[int], list[float]]:
    """A string: which recordings of one of the speakers, and the seconds of silence before each."""
    generator = torch.Generator().manual_seed(seed)

    def number(low: int, high: int) -> int:
        return int(torch.randint(low, high + 1, (), generator=generator))

    mine = speakers[number(0, len(speakers) - 1)]
    places = [mine[number(0, len(mine) - 1)] for _ in range(number(*digits))]
    return places, (LARGEST_GAP * torch.rand(len(places), generator=generator)).tolist()


def recordings_in(folder: Path) -> list[Recording]:
    """By digit, speaker and index.

    Raises:
        RunError: there is no such folder, or it holds no file that is named so.
    """
    if not folder.is_dir():
        raise RunError(f"{folder}: there is no such folder")
    matches = [(file, match) for file in folder.iterdir() if (match := NAME.fullmatch(file.name))]
    if not matches:
        raise RunError(
            f"{folder}: holds no recording named DIGIT_SPEAKER_INDEX.flac or .wav, such as 7_jackson_32.flac"
        )
    found = [Recording(file, int(match[1]), match[2], int(match[3])) for file, match in matches]
    return sorted(found, key=lambda one: one[1:])


def divided(recordings: Sequence[Recording], leave_out: str | None) -> dict[Split, list[Recording]]:
    """The recordings of each split.

    Raises:
        RunError: nobody is called ``leave_out``, or a split is empty.
    """
    speakers = sorted({one.speaker for one in recordings})
    if leave_out is not None and leave_out not in speakers:
        raise RunError(f"leave_out={leave_out}: nobody is called so; the speakers are {', '.join(speakers)}")

    def split_of(one: Recording) -> Split:
        if one.speaker == leave_out or (leave_out is None and one.take in TESTED):
            return "test"
        return "val" if one.take in VALIDATED else "train"

    found: dict[Split, list[Recording]] = {"train": [], "val": [], "test": []}
    for one in recordings:
        found[split_of(one)].append(one)
    empty = [name for name, files in found.items() if not files]
    if empty:
        raise RunError(
            f"{recordings[0].path.parent}: no recording is left for the split `{empty[0]}`: index 0 to 4 is the test, "
            "5 to 9 validation, and what follows is trained on"
        )
    return found
