from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from kdcore.errors import RunError

from conftest import Write
from kdcore_speech.data.manifest import Manifest

MakeManifest = Callable[..., Path]
TEXTS = ("ab", "b a", "abba", "a", "bb", "ba", "aab", "b", "ab b", "a a")


@pytest.fixture
def manifest(sound: Write, tmp_path: Path) -> MakeManifest:
    """Writes a manifest; by default of ten clips in ``wavs``, each 0.1 s longer than the one before."""

    def write(*entries: Any, name: str = "train.jsonl") -> Path:
        made = entries or [
            {"audio_filepath": f"wavs/{i}.wav", "text": text, "speaker": "x"} for i, text in enumerate(TEXTS)
        ]
        if not entries:
            for i in range(len(TEXTS)):
                sound(f"wavs/{i}.wav", 0.1 * (i + 1))
        path = tmp_path / name
        path.write_text("\n".join(one if isinstance(one, str) else json.dumps(one) for one in made), encoding="utf-8")
        return path

    return write


def data(path: Path, **options: Any) -> Manifest:
    return Manifest(path=path, **{"sample_rate": 8000, "batch_size": 3, **options})


def refused(path: Path, message: str, **options: Any) -> None:
    with pytest.raises(RunError, match=message):
        data(path, **options)


def test_clips_with_transcripts_in_three_splits(manifest: MakeManifest):
    made = data(manifest())
    assert made.split_sizes == {"train": 8, "val": 1, "test": 1}
    assert made.facts["symbols"] == ["", " ", "a", "b"]
    assert (made.facts["vocabulary"], made.facts["blank"], made.facts["separator"]) == (4, 0, "")
    assert made.class_names == ("<blank>", " ", "a", "b")
    assert made.facts["sample_rate"] == 8000
    train = made.split("train")
    assert made.facts["audio_samples"] == max(len(train[i]["audio"]) for i in range(8))
    splits = [made.split(name) for name in ("train", "val", "test")]
    said = {}
    for clips in splits:
        for row in range(len(clips)):
            sample = clips[row]
            text = "".join(made.facts["symbols"][i] for i in sample["tokens"].tolist())
            said[round(len(sample["audio"]) / 800) - 1] = text
    assert [said[i] for i in range(10)] == list(TEXTS)
    assert len({int(number) for clips in splits for number in clips.ids}) == 10


def test_the_split_does_not_depend_on_the_seed(manifest: MakeManifest):
    path = manifest()
    first, second = data(path), data(path)
    second.seed = 7
    assert torch.equal(first.split("test").ids, second.split("test").ids)


def test_batches(manifest: MakeManifest):
    batches = list(data(manifest()).train_dataloader())
    assert sum(len(batch["id"]) for batch in batches) == 8
    for batch in batches:
        assert set(batch) == {"audio", "audio_lengths", "tokens", "id"}
        assert batch["audio"].shape[1] == int(batch["audio_lengths"].max())


def test_validation_goes_from_short_to_long(manifest: MakeManifest):
    made = data(manifest(), validation=0.5)
    lengths = [one for batch in made.val_dataloader() for one in batch["audio_lengths"].tolist()]
    assert lengths == sorted(lengths)
    assert len(lengths) == 5


def test_manifests_of_their_own_for_validation_and_test(manifest: MakeManifest):
    path = manifest()
    others = {"val_path": manifest({"audio_filepath": "wavs/0.wav", "text": "b"}, name="val.jsonl")}
    others["test_path"] = manifest({"audio_filepath": "wavs/1.wav", "text": "a"}, name="test.jsonl")
    made = data(path, **others)
    assert made.split_sizes == {"train": 10, "val": 1, "test": 1}
    assert made.split("val")[0]["tokens"].tolist() == [3]


def test_an_offset_and_a_duration_cut_a_file(manifest: MakeManifest, sound: Write):
    sound("long.wav", 2.0)
    entries = [{"audio_filepath": "long.wav", "offset": 0.1 * i, "duration": 0.5, "text": "a"} for i in range(4)]
    made = data(manifest(*entries), validation=0.25, test=0)
    assert made.split("train").seconds == [0.5] * 3
    assert len(made.split("train")[0]["audio"]) == 4000
    assert made.split("test") is None


def test_an_absolute_path_is_taken_as_it_is(manifest: MakeManifest, sound: Write):
    path = sound("else/a.wav")
    made = data(manifest(*[{"audio_filepath": str(path), "text": "a"}] * 3), test=0)
    assert len(made.split("train")) == 2


def test_a_teacher_s_vocabulary(manifest: MakeManifest, tmp_path: Path):
    (tmp_path / "vocab.json").write_text('{"B": 0, "A": 1, "|": 2, "[PAD]": 3}', encoding="utf-8")
    made = data(manifest(), vocabulary=tmp_path, normaliser="upper")
    assert made.facts["symbols"] == ["B", "A", " ", ""]
    assert made.facts["blank"] == 3


def test_words_as_symbols(manifest: MakeManifest):
    made = data(manifest(), unit="word")
    assert made.facts["separator"] == " "
    assert "abba" in made.facts["symbols"]


def test_some_transcripts_are_kept_chosen_by_the_seed(manifest: MakeManifest):
    def kept(seed: int, labels: int) -> set[int]:
        made = data(manifest(), labels=labels)
        made.seed = seed
        clips = made.split("train")
        assert len(clips) == 8
        return {row for row in range(8) if clips[row]["tokens"].tolist() != [-100]}

    assert len(kept(0, 3)) == 3
    assert kept(0, 3) < kept(0, 5)
    assert any(kept(seed, 3) != kept(0, 3) for seed in range(1, 5))
    assert all(len(data(manifest(), labels=3).split(name)) for name in ("val", "test"))


def test_more_transcripts_than_there_are_are_refused(manifest: MakeManifest):
    with pytest.raises(ValueError, match="labels=9: give from 1 to 8, the training clips that have a transcript"):
        data(manifest(), labels=9).split("train")


def test_a_clip_without_text_has_no_transcript(manifest: MakeManifest, sound: Write):
    sound("a.wav")
    entries = [{"audio_filepath": "a.wav", "text": "a"}] * 4 + [{"audio_filepath": "a.wav"}] * 4
    made = data(manifest(*entries), labels=2)
    tokens = [made.split("train")[row]["tokens"].tolist() for row in range(6)]
    assert tokens.count([-100]) == 4


def test_hidden_labels_of_a_sample_and_a_batch(manifest: MakeManifest):
    made = data(manifest())
    assert (made.without_labels(made.split("train")[1])["tokens"] == -100).all()
    assert (made.without_labels(next(iter(made.train_dataloader())))["tokens"] == -100).all()


# ---- what is said


def test_another_rate_and_channels_are_said(manifest: MakeManifest, sound: Write):
    for i in range(4):
        sound(f"{i}.wav", rate=8000 if i < 3 else 16000, channels=2)
    made = data(manifest(*({"audio_filepath": f"{i}.wav", "text": "a"} for i in range(4))), sample_rate=16000, test=0)
    made.split("val")
    said = "\n".join(made.notes)
    assert "of 3 clips of the split `train` were resampled from 8000 Hz to 16000 Hz" in said
    assert "3 of 3 clips of the split `train` have 2 channels, of which the mean is taken" in said
    assert len(made.split("train")[0]["audio"]) == 8000


def test_clips_that_are_too_long_are_left_out_and_counted(manifest: MakeManifest):
    made = data(manifest(), max_duration=0.55)
    assert all(seconds <= 0.55 for seconds in made.split("train").seconds)
    left = 8 - len(made.split("train"))
    assert f"{left} of 8 clips of the split `train` are longer than 0.55 s and were left out" in made.notes
    refused(
        manifest(), r"none of 8 clips of the split `train` can be used; all are longer than 0.05 s", max_duration=0.05
    )


def test_bad_clips_can_be_left_out(manifest: MakeManifest, tmp_path: Path):
    path = manifest()
    for i in range(4):
        (tmp_path / f"wavs/{i}.wav").write_bytes(b"")
    made = data(path, bad="skip", validation=0.5, test=0)
    made.split("val")
    said = [note for note in made.notes if "left out" in note]
    assert sum(int(note.split()[0]) for note in said) == 4
    assert "the file is empty" in said[0]


def test_all_clips_bad_is_an_error(manifest: MakeManifest, tmp_path: Path):
    path = manifest()
    for file in (tmp_path / "wavs").iterdir():
        file.write_bytes(b"")
    refused(
        path, r"none of 8 clips of the split `train` can be used; the first: .*train\.jsonl:\d+: .*empty", bad="skip"
    )


# ---- what is wrong


def test_a_missing_file_is_named_with_its_line(manifest: MakeManifest, tmp_path: Path):
    path = manifest()
    for file in (tmp_path / "wavs").iterdir():
        file.unlink()
    refused(path, r"train\.jsonl:1: .*wavs/0\.wav: there is no such file\. Mend it, or set `bad: skip`")


def test_symbols_outside_the_vocabulary_are_named_with_their_line(manifest: MakeManifest, tmp_path: Path):
    (tmp_path / "symbols.txt").write_text("<blank>\na\n ", encoding="utf-8")
    message = r"train\.jsonl:\d+: the transcript '.*b.*' holds 'b', which the vocabulary of 2 symbols lacks\. Mend it"
    refused(manifest(), message, vocabulary=tmp_path / "symbols.txt")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", r"train\.jsonl:2: is no JSON: .* \(column \d+\)"),
        ("[1]", r"train\.jsonl:2: is no clip: write an object with `audio_filepath`"),
        ('{"text": "a"}', r"train\.jsonl:2: is no clip"),
        ('{"audio_filepath": "a.wav", "text": 5}', r"train\.jsonl:2: `text` is a int, not text"),
        ('{"audio_filepath": "a.wav", "offset": -1}', r"train\.jsonl:2: `offset` is -1, not seconds of 0 or more"),
        ('{"audio_filepath": "a.wav", "duration": "2"}', r"train\.jsonl:2: `duration` is '2', not seconds"),
        ('{"audio_filepath": "a.wav", "duration": NaN}', r"train\.jsonl:2: `duration` is nan, not seconds"),
    ],
)
def test_lines_that_are_none_are_named(manifest: MakeManifest, line: str, message: str):
    refused(manifest({"audio_filepath": "a.wav", "text": "a"}, line), message)


def test_an_empty_transcript_is_refused(manifest: MakeManifest, sound: Write):
    sound("a.wav")
    entries = [{"audio_filepath": "a.wav", "text": "!?"}] * 3 + [{"audio_filepath": "a.wav", "text": "a"}]
    refused(manifest(*entries), r"train\.jsonl:\d: the transcript is empty: leave `text` out", test=0, validation=0.25)


def test_manifests_that_are_none(tmp_path: Path, manifest: MakeManifest):
    refused(tmp_path / "gone.jsonl", r"gone\.jsonl: the manifest cannot be read \(FileNotFoundError\)")
    refused(manifest(" "), r"train\.jsonl: the manifest is empty: write a line for each clip")
    refused(
        manifest({"audio_filepath": "a.wav"}), r"no line has a `text`, so there is no vocabulary", validation=0, test=0
    )


def test_shares_that_leave_nothing(manifest: MakeManifest):
    with pytest.raises(ValueError, match=r"shares of 0\.5 and 0\.5 for validation and test leave nothing"):
        data(manifest(), validation=0.5, test=0.5)
    with pytest.raises(ValueError, match="validation=0: hold some clips out"):
        data(manifest(), validation=0)
    refused(manifest({"audio_filepath": "a.wav", "text": "a"}), r"train\.jsonl: 1 clips are too few to hold some out")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sample_rate": 0}, "sample_rate=0: give samples a second"),
        ({"batch_seconds": 0.0}, r"batch_seconds=0\.0: give seconds above 0"),
        ({"max_duration": -1.0}, r"max_duration=-1\.0: give 0 or more"),
        ({"workers": -1}, "workers=-1: give 0 or more"),
        ({"batch_size": 0}, "batch_size=0: give at least 1"),
    ],
)
def test_impossible_numbers(manifest: MakeManifest, options: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        data(manifest(), **options)


# ---- from disk


def test_clips_from_disk_are_those_in_memory(manifest: MakeManifest):
    path = manifest()
    kept, read = data(path), data(path, keep="disk", workers=2)
    assert (kept.workers, read.workers) == (0, 2)
    for name in ("train", "val"):
        for row in range(len(kept.split(name))):
            assert torch.equal(kept.split(name)[row]["audio"], read.split(name)[row]["audio"])
            assert kept.split(name).seconds == pytest.approx(read.split(name).seconds)


def test_a_clip_that_breaks_later_is_named(manifest: MakeManifest, tmp_path: Path):
    made = data(manifest(), keep="disk")
    for file in (tmp_path / "wavs").iterdir():
        file.write_bytes(b"")
    with pytest.raises(RunError, match=r"train\.jsonl:\d+: .*\.wav: the file is empty"):
        made.split("train")[0]


def test_too_much_for_memory(manifest: MakeManifest, monkeypatch: pytest.MonkeyPatch):
    path = manifest()
    monkeypatch.setattr("kdcore_speech.data.files.MEMORY_LIMIT", 30000)
    refused(path, "the split `train` takes more than 0 GiB of memory: set `keep: disk`, and perhaps `workers: 4`")
    assert len(data(path, keep="disk").split("train")) == 8
