"""The base of all data whose clips lie in audio files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from kdcore.data.bad import REMEDY, BadSampleError, left_out
from kdcore.data.base import Split
from kdcore.data.splits import stratified_order
from kdcore.errors import RunError
from torch import Tensor

from kdcore_speech.data.base import FIRST_ID, Clips, SpeechData
from kdcore_speech.data.collate import NO_TRANSCRIPT
from kdcore_speech.data.reading import Header, Segment, header_of, length_of, read
from kdcore_speech.vocabulary import Vocabulary

SPLIT_SEED = 1797
"""Fixes the split of data that brings none. Not the recipe's seed, so that all seeds are tested on the same clips."""

MEMORY_LIMIT = 8 * 2**30
"""Bytes of one split that are kept in memory at most."""

Bad = Literal["error", "skip"]
Keep = Literal["memory", "disk"]


@dataclass(frozen=True)
class Clip:
    """A clip as a list of files has it.

    Attributes:
        segment: where it lies.
        number: its id within its split, stable.
        where: the line that names it, for messages; empty where none does.
        text: what is said, normalised; ``None`` where nobody knows.
        label: its class; -100 for none.
    """

    segment: Segment
    number: int
    where: str = ""
    text: str | None = None
    label: int | None = None


class AudioFiles(SpeechData):
    """Clips in audio files, with transcripts or labels.

    Args:
        splits: the clips of each split, not empty.
        vocabulary: of transcripts; ``None`` where clips have labels.
        max_duration: clips of more seconds are left out, and said; ``None`` keeps them all.
        bad: what to do with a clip that cannot be used.
        keep: where waveforms are between epochs.
        workers: processes that read, with ``keep: disk``.
        batch_size, batch_seconds, sample_rate, labels: see :class:`SpeechData`.

    Raises:
        ValueError: a limit below 0, or no clips for validation.
        RunError: a training clip cannot be used; see :meth:`clips`.
    """

    def __init__(
        self,
        *,
        splits: Mapping[Split, Sequence[Clip]],
        vocabulary: Vocabulary | None,
        batch_size: int,
        batch_seconds: float | None,
        sample_rate: int,
        max_duration: float | None,
        labels: int | None,
        bad: Bad,
        keep: Keep,
        workers: int,
    ) -> None:
        super().__init__(batch_size=batch_size, batch_seconds=batch_seconds, sample_rate=sample_rate, labels=labels)
        for name, value in (("max_duration", max_duration), ("workers", workers)):
            if value is not None and value < 0:
                raise ValueError(f"{name}={value}: give 0 or more")
        if "val" not in splits:
            raise ValueError("validation=0: hold some clips out, or give those of validation (`val_path`)")
        self._splits, self._vocabulary = splits, vocabulary
        self._max_duration, self._skips, self._in_memory = max_duration, bad == "skip", keep == "memory"
        self.workers = 0 if self._in_memory else workers
        self.facts = {"sample_rate": sample_rate}
        # every header, and in memory every waveform, is read here: what is wrong is said before anything is trained
        train = self._ready["train"] = self._load("train")
        self.facts["audio_samples"] = round(max(train.seconds) * sample_rate)
        if vocabulary is not None:
            self.tell(vocabulary)

    def clips(self, name: Split) -> Clips | None:
        """
        Raises:
            RunError: a clip cannot be used and ``bad`` is ``error``, or none can; the split is too large for memory.
        """
        return self._load(name) if name in self._splits else None

    def _load(self, name: Split) -> Clips:
        report = _Report(name, len(self._splits[name]), self.sample_rate)
        rows: list[_Row] = []
        for clip in self._splits[name]:
            try:
                row = self._row(clip, report)
            except (BadSampleError, ValueError) as error:
                report.wrong.append(_at(clip, error))
                if not self._skips:
                    raise RunError(f"{report.wrong[0]}. {REMEDY}") from error
                continue
            if row is not None:
                rows.append(row)
        self.notes += report.notes(self._max_duration, len(rows))
        good = [row.clip for row in rows]
        sounds = [row.sound for row in rows if row.sound is not None]
        tokens = {"tokens": [row.tokens for row in rows]}
        return Clips(
            torch.tensor([FIRST_ID[name] + clip.number for clip in good]),
            [row.seconds for row in rows],
            sounds.__getitem__ if self._in_memory else _OnDisk(good, self.sample_rate),
            {"labels": _labels(good)} if self._vocabulary is None else tokens,
        )

    def _row(self, clip: Clip, report: _Report) -> _Row | None:
        """A clip as it is used; ``None`` where it is too long."""
        header = header_of(clip.segment.path)
        seconds = length_of(clip.segment, header)
        if self._max_duration is not None and seconds > self._max_duration:
            report.too_long += 1
            return None
        tokens = self._tokens(clip)
        sound = read(clip.segment, self.sample_rate) if self._in_memory else None
        report.see(header, 0 if sound is None else sound.nbytes)
        return _Row(clip, seconds, tokens, sound)

    def _tokens(self, clip: Clip) -> Tensor:
        if self._vocabulary is None or clip.text is None:
            return NO_TRANSCRIPT
        if not clip.text:
            raise ValueError("the transcript is empty: leave `text` out where nobody knows what is said")
        return torch.tensor(self._vocabulary.encode(clip.text))


class _Row(NamedTuple):
    """A clip that can be used; ``sound`` where it is kept in memory."""

    clip: Clip
    seconds: float
    tokens: Tensor
    sound: Tensor | None


def _at(clip: Clip, error: Exception) -> str:
    return f"{clip.where}: {error}" if clip.where else str(error)


class _OnDisk:
    """Reads a clip each time it is wanted."""

    def __init__(self, clips: Sequence[Clip], sample_rate: int) -> None:
        self._clips, self._sample_rate = clips, sample_rate

    def __call__(self, place: int) -> Tensor:
        clip = self._clips[place]
        try:
            return read(clip.segment, self._sample_rate)
        except BadSampleError as error:
            raise RunError(_at(clip, error)) from error


class _Report:
    """What is to be said of a split once all of it was looked at."""

    def __init__(self, name: Split, total: int, sample_rate: int) -> None:
        self._name, self._total, self._sample_rate = name, total, sample_rate
        self.wrong: list[str] = []
        self.too_long = 0
        self._rates: Counter[int] = Counter()
        self._channels: Counter[int] = Counter()
        self._bytes = 0

    def see(self, header: Header, kept: int) -> None:
        """Remember what was done to a clip, and how many bytes of it are kept.

        Raises:
            RunError: the split is too large for memory.
        """
        self._rates[header.sample_rate] += 1
        self._channels[header.channels] += 1
        self._bytes += kept
        if self._bytes > MEMORY_LIMIT:
            raise RunError(
                f"the split `{self._name}` takes more than {MEMORY_LIMIT // 2**30} GiB of memory: set `keep: disk`, "
                "and perhaps `workers: 4`"
            )

    def notes(self, max_duration: float | None, kept: int) -> list[str]:
        """
        Raises:
            RunError: nothing is left.
        """
        of = f"of {self._total} clips of the split `{self._name}`"
        if not kept:
            first = f"the first: {self.wrong[0]}" if self.wrong else f"all are longer than {max_duration} s"
            raise RunError(f"none {of} can be used; {first}")
        found = left_out(self._name, self.wrong, self._total, "clips")
        if self.too_long:
            found.append(f"{self.too_long} {of} are longer than {max_duration} s and were left out")
        for rate, count in sorted(self._rates.items()):
            if rate != self._sample_rate:
                found.append(f"{count} {of} were resampled from {rate} Hz to {self._sample_rate} Hz")
        for channels, count in sorted(self._channels.items()):
            if channels > 1:
                found.append(f"{count} {of} have {channels} channels, of which the mean is taken")
        return found


def held_out(clips: Sequence[Clip], shares: Mapping[Split, float], where: str) -> dict[Split, list[Clip]]:
    """A fixed share of the clips for validation and test, the same whatever the recipe's seed.

    Args:
        shares: of ``val`` and ``test``; 0 for none. Where clips have classes, each class gives its share.
        where: the file or folder, for messages.

    Raises:
        ValueError: shares that leave nothing to train on.
        RunError: too few clips for one in each split.
    """
    if not (min(shares.values()) >= 0 and sum(shares.values()) < 1):
        given = " and ".join(f"{share}" for share in shares.values())
        raise ValueError(f"shares of {given} for validation and test leave nothing to train on")
    order = stratified_order(_labels(clips), SPLIT_SEED).tolist()
    found: dict[Split, list[Clip]] = {}
    for name, share in shares.items():
        wanted = max(1, round(share * len(clips))) if share else 0
        if wanted >= len(order):
            raise RunError(f"{where}: {len(clips)} clips are too few to hold some out for validation")
        chosen, order = order[:wanted], order[wanted:]
        if chosen:
            found[name] = [clips[place] for place in sorted(chosen)]
    return {"train": [clips[place] for place in sorted(order)], **found}


def _labels(clips: Sequence[Clip]) -> Tensor:
    return torch.tensor([-100 if clip.label is None else clip.label for clip in clips])
