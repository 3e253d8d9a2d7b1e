"""A folder of recordings for each class."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

from kdcore.data.base import Split
from kdcore.errors import RunError

from kdcore_speech.data.base import SPLITS
from kdcore_speech.data.files import AudioFiles, Clip, held_out
from kdcore_speech.data.reading import Segment

ENDINGS = (".wav", ".flac", ".ogg", ".opus", ".mp3", ".aiff", ".aif")


class Folders(AudioFiles):
    """``path/CLASS/*.wav``, or ``path/train/CLASS/*.wav`` beside ``val`` and perhaps ``test``. The classes are the
    folders of ``path`` (or ``train``) by name.

    Args:
        path: the folder.
        sample_rate: of the waveforms; files of another rate are resampled, and that is said.
        batch_size: clips in a batch at most, over all devices together.
        batch_seconds: seconds in a batch of training at most, padding included.
        max_duration: clips of more seconds are left out, and said.
        validation: share of the clips held out for validation, where there is no folder ``train``.
        test: share held out for the test, likewise; 0 for no test split.
        labels: keep only so many training labels, evenly over the classes and chosen by the recipe's seed; the other
            clips stay, with the label -100, for a teacher to speak about.
        bad: what to do with a clip that cannot be used: stop, or leave it out and say so.
        keep: where waveforms are between epochs.
        workers: processes that read, with ``keep: disk``.

    Raises:
        RunError: a folder or a clip cannot be used.
        ValueError: shares that leave nothing to train on.
    """

    fact_names: ClassVar[tuple[str, ...]] = ("sample_rate", "audio_samples", "classes")

    def __init__(
        self,
        *,
        path: Path,
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
        path = Path(path)
        has_splits = (path / "train").is_dir()
        names = _classes(path / "train" if has_splits else path)
        if has_splits:
            splits = {name: clips_of(path / name, names) for name in SPLITS if name != "test" or (path / name).is_dir()}
        else:
            shares: dict[Split, float] = {"val": validation, "test": test}
            splits = held_out(clips_of(path, names), shares, str(path))
        super().__init__(
            splits=splits,
            vocabulary=None,
            batch_size=batch_size,
            batch_seconds=batch_seconds,
            sample_rate=sample_rate,
            max_duration=max_duration,
            labels=labels,
            bad=bad,
            keep=keep,
            workers=workers,
        )
        self.class_names = names
        self.facts["classes"] = len(names)


def clips_of(folder: Path, names: tuple[str, ...]) -> list[Clip]:
    """The recordings of every class, by class and name; a class without any is an error.

    Raises:
        RunError: the folder holds another class, or no recording of one.
    """
    unknown = sorted(set(_classes(folder)) - set(names))
    if unknown:
        raise RunError(f"{folder / unknown[0]}: there is no such class to train on: known are {', '.join(names)}")
    found: list[Clip] = []
    for label, name in enumerate(names):
        files = [file for file in sorted((folder / name).rglob("*")) if file.suffix.lower() in ENDINGS]
        if not files:
            raise RunError(f"{folder / name}: holds no recording (looked for {', '.join(ENDINGS)})")
        found += [Clip(Segment(file), len(found) + place, label=label) for place, file in enumerate(files)]
    return found


def _classes(folder: Path) -> tuple[str, ...]:
    if not folder.is_dir():
        raise RunError(f"{folder}: there is no such folder")
    names = tuple(sorted(one.name for one in folder.iterdir() if one.is_dir() and not one.name.startswith(".")))
    if len(names) < 2:
        raise RunError(f"{folder}: holds {len(names)} folders: give one for each class, two at least")
    return names
