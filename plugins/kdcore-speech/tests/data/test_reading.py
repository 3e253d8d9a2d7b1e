from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from kdcore.data.bad import BadSampleError

from conftest import Write
from kdcore_speech.data.reading import Header, Segment, header_of, length_of, read


def test_samples_are_as_they_were_written(sound: Write):
    path = sound("a.wav", 0.1, subtype="FLOAT")
    expected = 0.5 * torch.sin(2 * math.pi * 440 * torch.arange(800).double() / 8000).float()
    found = read(Segment(path), 8000)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("ending", ["wav", "flac", "ogg"])
def test_headers_of_any_format(sound: Write, ending: str):
    assert header_of(sound(f"a.{ending}", 0.5, channels=2)) == Header(8000, 2, 0.5)


def test_a_segment_is_cut_out(sound: Write):
    path = sound("a.wav", 0.5, subtype="FLOAT")
    whole = read(Segment(path), 8000)
    assert torch.equal(read(Segment(path, 0.1, 0.2), 8000), whole[800:2400])
    assert torch.equal(read(Segment(path, 0.4), 8000), whole[3200:])


def test_channels_are_averaged(sound: Write):
    # the second channel is the tone, the first half as loud
    found = read(Segment(sound("a.wav", channels=2, subtype="FLOAT")), 8000)
    torch.testing.assert_close(found, 0.75 * read(Segment(sound("b.wav", subtype="FLOAT")), 8000))


@pytest.mark.parametrize(("given", "wanted"), [(8000, 16000), (16000, 8000), (44100, 8000)])
def test_another_rate_is_the_same_tone(sound: Write, given: int, wanted: int):
    found = read(Segment(sound("a.wav", 1.0, given, subtype="FLOAT")), wanted)
    assert len(found) == wanted
    expected = 0.5 * torch.sin(2 * math.pi * 440 * torch.arange(wanted) / wanted)
    middle = slice(wanted // 4, 3 * wanted // 4)
    torch.testing.assert_close(found[middle], expected[middle], atol=2e-3, rtol=0)


def test_what_a_lower_rate_cannot_hold_is_taken_out(sound: Write):
    found = read(Segment(sound("a.wav", 1.0, 16000, hertz=6000.0)), 8000)
    assert found[2000:6000].abs().max() < 0.01


def test_a_missing_file(tmp_path: Path):
    with pytest.raises(BadSampleError, match=r"gone\.wav: there is no such file"):
        read(Segment(tmp_path / "gone.wav"), 8000)


def test_an_empty_file(tmp_path: Path):
    (tmp_path / "a.flac").touch()
    with pytest.raises(BadSampleError, match=r"a\.flac: the file is empty"):
        read(Segment(tmp_path / "a.flac"), 8000)


def test_a_file_without_a_sample(tmp_path: Path):
    soundfile.write(tmp_path / "a.wav", np.zeros(0), 8000)
    with pytest.raises(BadSampleError, match=r"a\.wav: 0\.000 s of sound, and at least 0\.025 s are needed"):
        read(Segment(tmp_path / "a.wav"), 8000)


def test_text_is_no_audio(tmp_path: Path):
    (tmp_path / "a.wav").write_text("hello" * 100)
    with pytest.raises(BadSampleError, match=r"a\.wav: is no audio that can be read \(.+\)"):
        read(Segment(tmp_path / "a.wav"), 8000)


def test_a_corrupt_flac(sound: Write):
    path = sound("a.flac", 2.0)
    content = bytearray(path.read_bytes())
    content[len(content) // 3 :] = bytes(len(content) - len(content) // 3)
    path.write_bytes(content)
    with pytest.raises(BadSampleError, match=r"a\.flac: is damaged"):
        read(Segment(path), 8000)


def test_a_flac_that_breaks_off(sound: Write):
    path = sound("a.flac", 2.0)
    path.write_bytes(path.read_bytes()[:-400])
    with pytest.raises(BadSampleError, match=r"a\.flac: is damaged"):
        read(Segment(path), 8000)


def test_numbers_that_are_none(tmp_path: Path):
    soundfile.write(tmp_path / "a.wav", np.full(800, np.nan), 8000, subtype="FLOAT")
    with pytest.raises(BadSampleError, match=r"a\.wav: holds NaN or infinity"):
        read(Segment(tmp_path / "a.wav"), 8000)


def test_a_segment_behind_the_end(sound: Write):
    path = sound("a.wav", 0.5)
    with pytest.raises(BadSampleError, match=r"a\.wav: the segment ends at 0\.80 s, the file at 0\.50 s"):
        read(Segment(path, 0.3, 0.5), 8000)
    with pytest.raises(BadSampleError, match=r"a\.wav: 0\.000 s of sound, and at least 0\.025 s are needed"):
        read(Segment(path, 0.6), 8000)


def test_a_duration_that_was_rounded_up_is_cut():
    header = Header(8000, 1, 0.5)
    assert length_of(Segment(Path("a"), 0.3, 0.24), header) == pytest.approx(0.2)
    assert length_of(Segment(Path("a"), 0.3, 0.1), header) == 0.1
