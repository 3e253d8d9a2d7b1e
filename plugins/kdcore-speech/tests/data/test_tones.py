from __future__ import annotations

import pytest
import torch

from kdcore_speech.data import tones
from kdcore_speech.data.tones import KEYS, Tones, draw


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tones, "COUNTS", {"train": 12, "val": 4, "test": 6})


def test_facts_and_splits():
    made = Tones(batch_size=4)
    assert made.split_sizes == {"train": 12, "val": 4, "test": 6}
    assert made.facts["vocabulary"] == 17
    assert made.facts["symbols"] == ["", *"123A456B789C*0#D"]
    assert (made.facts["blank"], made.facts["separator"], made.facts["sample_rate"]) == (0, " ", 8000)
    assert made.class_names is not None
    assert made.class_names[0] == "<blank>"


def test_clips_are_as_long_as_the_facts_allow():
    made = Tones()
    clips = made.split("train")
    assert clips is not None
    for row in range(12):
        sample = clips[row]
        assert len(sample["audio"]) <= made.facts["audio_samples"]
        assert clips.seconds[row] == len(sample["audio"]) / 8000
        assert 2 <= len(sample["tokens"]) <= 6
        assert sample["audio"].abs().max() == 1


def test_keys_are_heard_as_their_two_tones(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tones, "PRESSED", (1, 1))
    monkeypatch.setattr(tones, "NOISE", (40.0, 40.0))
    monkeypatch.setattr(tones, "DETUNED", 0.0)
    seen = set()
    for seed in range(40):
        audio, (key,) = draw(seed, 8000)
        spectrum = torch.fft.rfft(audio, 8000).abs()
        low = int(spectrum[:1050].argmax())
        high = 1050 + int(spectrum[1050:2000].argmax())
        row, column = (
            min(range(4), key=lambda i: abs(tones_[i] - hertz))
            for tones_, hertz in ((tones.LOW, low), (tones.HIGH, high))
        )
        assert KEYS[row][column] == key
        seen.add(key)
    assert len(seen) > 10


def test_noise_is_as_loud_as_said(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tones, "TWIST", 0.0)
    monkeypatch.setattr(tones, "PAUSE", (0.0, 0.0))
    monkeypatch.setattr(tones, "PRESSED", (60, 60))
    for decibels in (0.0, 20.0):
        monkeypatch.setattr(tones, "NOISE", (decibels, decibels))
        audio, _ = draw(0, 8000)
        power = torch.fft.rfft(audio).abs().square()
        hertz = torch.linspace(0, 4000, len(power))
        noise = power[hertz > 2500].mean() * len(power)  # white: the same everywhere
        signal = power.sum() - noise
        assert 10 * torch.log10(signal / noise) == pytest.approx(decibels, abs=0.7)


def test_no_seed_changes_a_string():
    first, second = Tones(), Tones()
    second.seed = 5
    for name in ("train", "val", "test"):
        mine, theirs = first.split(name), second.split(name)  # type: ignore[arg-type]
        assert mine is not None
        assert theirs is not None
        assert torch.equal(mine[0]["audio"], theirs[0]["audio"])
    assert not torch.equal(draw(1, 8000)[0][:200], draw(2, 8000)[0][:200])


def test_transcripts_of_some_are_kept():
    made = Tones(labels=5)
    clips = made.split("train")
    assert clips is not None
    assert sum(clips[row]["tokens"].tolist() != [-100] for row in range(12)) == 5


def test_another_rate():
    made = Tones(sample_rate=16000)
    clips, same = made.split("val"), Tones().split("val")
    assert clips is not None
    assert same is not None
    assert clips.seconds == pytest.approx(same.seconds, abs=2e-3)
    assert torch.equal(clips[0]["tokens"], same[0]["tokens"])


def test_impossible_numbers():
    with pytest.raises(ValueError, match="sample_rate=3000: tones up to 1633 Hz need at least 4000"):
        Tones(sample_rate=3000)
    with pytest.raises(ValueError, match="labels=13: give from 1 to 12"):
        Tones(labels=13)
