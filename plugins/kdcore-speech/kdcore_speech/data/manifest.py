"""JSON manifests of recordings and what is said in them, one a line."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, Literal

from kdcore.data.base import Split
from kdcore.errors import RunError

from kdcore_speech.data.files import AudioFiles, Clip, held_out
from kdcore_speech.data.reading import Segment
from kdcore_speech.text import Normaliser, normalised
from kdcore_speech.vocabulary import Unit, Vocabulary

FIELDS = "`audio_filepath`, and if known `text`, `offset` and `duration`"


class Manifest(AudioFiles):
    """Recordings with transcripts, in JSON, an object a line.

    ``audio_filepath`` is relative to the manifest, or absolute; ``offset`` and ``duration`` cut a part of the file, in
    seconds; ``text`` is what is said in it, and is left out where nobody knows: a teacher may speak about such a clip.
    Other fields are not read.

    Args:
        path: the manifest.
        val_path: that of validation; otherwise ``validation`` is held out.
        test_path: that of the test, likewise.
        vocabulary: a teacher's: the folder (or ``vocab.json``) of a CTC model of transformers, or a text file with the
            blank in its first line and then a symbol in each. Otherwise all symbols that occur in ``path``.
        unit: what a symbol is, unless ``vocabulary`` is one of transformers.
        normaliser: of transcripts: ``plain`` is lower case without punctuation, ``none`` only joins white space.
        sample_rate: of the waveforms; files of another rate are resampled, and that is said.
        batch_size: clips in a batch at most, over all devices together.
        batch_seconds: seconds in a batch of training at most, padding included.
        max_duration: clips of more seconds are left out, and said.
        validation: share of the clips of ``path`` held out for validation.
        test: share held out for the test; 0 for no test split.
        labels: keep the transcripts of only so many training clips, chosen by the recipe's seed; the others stay, for a
            teacher to speak about.
        bad: what to do with a clip that cannot be used: stop, or leave it out and say so.
        keep: where waveforms are between epochs.
        workers: processes that read, with ``keep: disk``.

    Raises:
        RunError: a manifest or a clip cannot be used; the message names file and line.
        ValueError: shares that leave nothing to train on.
    """

    fact_names: ClassVar[tuple[str, ...]] = (
        "sample_rate", "audio_samples", "vocabulary", "blank", "symbols", "separator",
    )  # fmt: skip

    def __init__(
        self,
        *,
        path: Path,
        val_path: Path | None = None,
        test_path: Path | None = None,
        vocabulary: Path | None = None,
        unit: Unit = "character",
        normaliser: Normaliser = "plain",
        sample_rate: int = 16000,
        batch_size: int = 32,
        batch_seconds: float | None = None,
        max_duration: float | None = None,
        validation: float = 0.1,
        test: float = 0.1,
        labels: int | None = None,
        bad: Literal["error", "skip"] = "error",
        keep: Literal["memory", "disk"] = "memory",
        workers: int = 0,
    ) -> None:
        first = read_manifest(Path(path), normaliser)
        shares: dict[Split, float] = {"val": 0.0 if val_path else validation, "test": 0.0 if test_path else test}
        splits = held_out(first, shares, str(path))
        for name, file in (("val", val_path), ("test", test_path)):
            if file is not None:
                splits[name] = read_manifest(Path(file), normaliser)  # type: ignore[index]
        texts = [clip.text for clip in first if clip.text]
        if vocabulary is None and not texts:
            raise RunError(f"{path}: no line has a `text`, so there is no vocabulary: give a teacher's (`vocabulary`)")
        super().__init__(
            splits=splits,
            vocabulary=Vocabulary.of_texts(texts, unit) if vocabulary is None else Vocabulary.read(vocabulary, unit),
            batch_size=batch_size,
            batch_seconds=batch_seconds,
            sample_rate=sample_rate,
            max_duration=max_duration,
            labels=labels,
            bad=bad,
            keep=keep,
            workers=workers,
        )


def read_manifest(file: Path, normaliser: Normaliser) -> list[Clip]:
    """Every line as a clip, its number the line's.

    Raises:
        RunError: the manifest is missing, empty or damaged; the message names the line.
    """
    try:
        lines = file.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise RunError(
            f"{file}: the manifest cannot be read ({type(error).__name__}): write UTF-8, JSON a line"
        ) from error
    clips = list(_clips(file, lines, normaliser))
    if not clips:
        raise RunError(f"{file}: the manifest is empty: write a line for each clip with {FIELDS}")
    return clips


def _clips(file: Path, lines: list[str], normaliser: Normaliser) -> Iterator[Clip]:
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        where = f"{file}:{number}"
        try:
            entry = json.loads(line)
        except json.JSONDecodeError as error:
            raise RunError(f"{where}: is no JSON: {error.msg} (column {error.colno})") from error
        if not isinstance(entry, dict) or not isinstance(entry.get("audio_filepath"), str):
            raise RunError(f"{where}: is no clip: write an object with {FIELDS}")
        text = entry.get("text")
        if not isinstance(text, str | None):
            raise RunError(f"{where}: `text` is a {type(text).__name__}, not text")
        offset, duration = _seconds(entry, "offset", where), _seconds(entry, "duration", where)
        segment = Segment(file.parent / Path(entry["audio_filepath"]).expanduser(), offset or 0.0, duration)
        yield Clip(segment, number, where, None if text is None else normalised(text, normaliser))


def _seconds(entry: dict[str, Any], field: str, where: str) -> float | None:
    value = entry.get(field)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not (math.isfinite(value) and value >= 0):
        raise RunError(f"{where}: `{field}` is {value!r}, not seconds of 0 or more")
    return float(value)
