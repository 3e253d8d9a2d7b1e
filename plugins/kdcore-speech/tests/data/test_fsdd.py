from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import soundfile
import torch
from kdcore.data.seeds import sample_seeds
from kdcore.errors import RunError

from conftest import Write
from kdcore_speech.data.files import SPLIT_SEED
from kdcore_speech.data.fsdd import FSDD, Recording, divided, draw, recordings_in


def data(path: Path, **options: Any) -> FSDD:
    return FSDD(path=path, batch_size=8, **options)


def test_the_official_split_of_single_digits(fsdd: Path):
    made = data(fsdd)
    assert made.split_sizes == {"train": 12, "val": 30, "test": 30}
    assert made.class_names == tuple("0123456789")
    assert made.facts == {"sample_rate": 8000, "audio_samples": 1680, "classes": 10}
    test = made.split("test")
    # the length tells the index: 0 to 4, shortest first
    assert [round(len(test[row]["audio"]) / 80 - 10) for row in range(30)] == [i for i in range(5) for _ in range(6)]
    assert sorted(int(test[row]["labels"]) for row in range(30)) == [0] * 10 + [1] * 10 + [2] * 10


def test_sounds_and_labels_belong_together(fsdd: Path):
    clips = data(fsdd).split("train")
    for row in range(len(clips)):
        sample = clips[row]
        hertz = int(torch.fft.rfft(sample["audio"], 8000).abs().argmax())
        assert abs(hertz - 300 - 100 * int(sample["labels"])) < 5


def test_a_speaker_is_left_out_of_everything_but_the_test(fsdd: Path):
    found = divided(recordings_in(fsdd), "bert")
    assert {one.speaker for one in found["test"]} == {"bert"}
    assert len(found["test"]) == 36
    assert {one.speaker for name in ("train", "val") for one in found[name]} == {"anna"}
    assert {one.take for one in found["val"]} == {5, 6, 7, 8, 9}
    assert data(fsdd, leave_out="bert").split_sizes == {"train": 21, "val": 15, "test": 36}


def test_speakers_as_labels(fsdd: Path):
    made = data(fsdd, label="speaker", leave_out="bert")
    assert made.class_names == ("anna", "bert")
    assert {int(made.split("test")[row]["labels"]) for row in range(36)} == {1}
    assert {int(made.split("train")[row]["labels"]) for row in range(21)} == {0}


def test_strings_of_digits(fsdd: Path):
    made = data(fsdd, strings=20)
    assert made.split_sizes == {"train": 20, "val": 200, "test": 300}
    assert made.facts["symbols"] == ["", *"0123456789"]
    assert made.facts["separator"] == " "
    assert "classes" not in made.facts
    clips = made.split("train")
    for row in range(20):
        sample = clips[row]
        assert 3 <= len(sample["tokens"]) <= 7
        assert set(sample["tokens"].tolist()) <= {1, 2, 3}
        # between digits is silence: as many stretches of sound as digits, or fewer where a gap is short
        assert clips.seconds[row] == len(sample["audio"]) / 8000


def test_a_string_is_its_recordings_and_silence(fsdd: Path):
    files = divided(recordings_in(fsdd), None)["train"]
    speakers = [[place for place, file in enumerate(files) if file.speaker == name] for name in ("anna", "bert")]
    clips = data(fsdd, strings=5).split("train")
    for row in range(5):
        places, gaps = draw(speakers, (3, 7), int(sample_seeds(SPLIT_SEED, clips.ids[row : row + 1])))
        expected: list[float] = []
        for place, gap in zip(places, gaps, strict=True):
            expected += [0.0] * round(gap * 8000)
            expected += soundfile.read(files[place].path, dtype="float32")[0].tolist()
        assert clips[row]["audio"].tolist() == expected
        assert clips[row]["tokens"].tolist() == [files[place].digit + 1 for place in places]


def test_strings_do_not_depend_on_the_seed(fsdd: Path):
    first, second = data(fsdd, strings=5), data(fsdd, strings=5)
    second.seed = 9
    assert torch.equal(first.split("train")[3]["audio"], second.split("train")[3]["audio"])
    assert torch.equal(first.split("train")[3]["tokens"], data(fsdd, strings=50).split("train")[3]["tokens"])


def test_a_string_is_of_one_speaker():
    speakers = [[0, 1, 2], [10, 11, 12]]
    drawn = [draw(speakers, (3, 7), seed) for seed in range(40)]
    assert all(max(places) - min(places) <= 2 for places, _ in drawn)
    assert {len(places) for places, _ in drawn} == {3, 4, 5, 6, 7}
    assert all(0 <= gap < 0.2 for _, gaps in drawn for gap in gaps)
    assert {places[0] // 10 for places, _ in drawn} == {0, 1}


def test_few_labels_of_either_kind(fsdd: Path):
    digits = data(fsdd, labels=3).split("train")
    assert sorted(int(digits[row]["labels"]) for row in range(12)) == [-100] * 9 + [0, 1, 2]
    strings = data(fsdd, strings=10, labels=4).split("train")
    assert sum(strings[row]["tokens"].tolist() != [-100] for row in range(10)) == 4


def test_folders_that_hold_something_else(tmp_path: Path, sound: Write, fsdd: Path):
    with pytest.raises(RunError, match="gone: there is no such folder"):
        data(tmp_path / "gone")
    sound("other/digit.wav")
    with pytest.raises(RunError, match=r"other: holds no recording named DIGIT_SPEAKER_INDEX\.flac or \.wav"):
        data(tmp_path / "other")
    with pytest.raises(RunError, match="leave_out=carl: nobody is called so; the speakers are anna, bert"):
        data(fsdd, leave_out="carl")


def test_a_split_without_a_recording():
    files = [Recording(Path("f/0_a_0.wav"), 0, "a", 0), Recording(Path("f/0_a_12.wav"), 0, "a", 12)]
    with pytest.raises(RunError, match="f: no recording is left for the split `val`: index 0 to 4 is the test"):
        divided(files, None)


def test_a_bad_recording_is_named(fsdd: Path):
    (fsdd / "1_anna_11.wav").write_bytes(b"")
    with pytest.raises(RunError, match=r"1_anna_11\.wav: the file is empty"):
        data(fsdd)


@pytest.mark.parametrize(
    "options", [{"strings": 0}, {"strings": 5, "digits": (4, 3)}, {"strings": 5, "digits": (0, 3)}]
)
def test_impossible_strings(fsdd: Path, options: dict[str, Any]):
    with pytest.raises(ValueError, match=r"strings=\d of \[\d, \d\] digits: give 1 or more, and \[least, most\]"):
        data(fsdd, **options)
