from __future__ import annotations

from pathlib import Path

import pytest
import torch
from kdcore.errors import RunError

from conftest import Write
from kdcore_speech.data.folders import Folders


@pytest.fixture
def folder(sound: Write, tmp_path: Path) -> Path:
    """Ten clips of `yes` and `no` each."""
    for name, hertz in (("yes", 300.0), ("no", 600.0)):
        for number in range(10):
            sound(f"clips/{name}/{number}.wav", 0.1, hertz=hertz)
    return tmp_path / "clips"


def data(path: Path, **options: object) -> Folders:
    return Folders(path=path, sample_rate=8000, batch_size=4, **options)  # type: ignore[arg-type]


def test_each_folder_is_a_class_and_each_split_has_its_share(folder: Path):
    made = data(folder, validation=0.2, test=0.2)
    assert made.class_names == ("no", "yes")
    assert made.facts == {"sample_rate": 8000, "audio_samples": 800, "classes": 2}
    for name, count in (("train", 6), ("val", 2), ("test", 2)):
        labels = [int(made.split(name)[row]["labels"]) for row in range(2 * count)]  # type: ignore[index, arg-type]
        assert labels.count(0) == labels.count(1) == count


def test_labels_and_sounds_belong_together(folder: Path):
    clips = data(folder).split("train")
    assert clips is not None
    for row in range(len(clips)):
        spectrum = torch.fft.rfft(clips[row]["audio"]).abs()
        hertz = int(spectrum.argmax()) * 10
        assert abs(hertz - (600 if int(clips[row]["labels"]) == 0 else 300)) <= 10


def test_splits_of_its_own(sound: Write, tmp_path: Path):
    for split, count in (("train", 3), ("val", 2)):
        for name in ("a", "b"):
            for number in range(count):
                sound(f"{split}/{name}/deep/{number}.flac", 0.1)
    made = data(tmp_path)
    assert made.split_sizes == {"train": 6, "val": 4}
    assert made.class_names == ("a", "b")


def test_some_labels_are_kept_evenly(folder: Path):
    made = data(folder, labels=4)
    clips = made.split("train")
    assert clips is not None
    labels = [int(clips[row]["labels"]) for row in range(len(clips))]
    assert (labels.count(0), labels.count(1)) == (2, 2)
    assert labels.count(-100) == 12
    hidden = made.without_labels(clips[0])
    assert int(hidden["labels"]) == -100


def test_folders_that_are_none(tmp_path: Path, folder: Path, sound: Write):
    with pytest.raises(RunError, match="gone: there is no such folder"):
        data(tmp_path / "gone")
    with pytest.raises(RunError, match="yes: holds 0 folders: give one for each class, two at least"):
        data(folder / "yes")
    (folder / "maybe").mkdir()
    with pytest.raises(RunError, match=r"maybe: holds no recording \(looked for \.wav, \.flac"):
        data(folder)


def test_a_class_that_is_only_tested_is_refused(sound: Write, tmp_path: Path):
    for place in ("train/a", "train/b", "val/a", "val/b", "val/c"):
        sound(f"{place}/0.wav")
    with pytest.raises(RunError, match="c: there is no such class to train on: known are a, b"):
        data(tmp_path)


def test_a_bad_clip_is_named(folder: Path):
    (folder / "no" / "3.wav").write_bytes(b"")
    with pytest.raises(RunError, match=r"^.*no/3\.wav: the file is empty\. Mend it, or set `bad: skip`"):
        data(folder, validation=0.05, test=0)
