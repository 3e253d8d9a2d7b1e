from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from kdcore_speech.features import hertz_to_mel
from kdcore_speech.transforms import spec_augment, with_gaps, without_bands


def sample(seconds: float = 1.0) -> dict[str, Any]:
    audio = torch.randn(round(8000 * seconds), generator=torch.Generator().manual_seed(0))
    return {"audio": audio, "tokens": torch.tensor([1, 2]), "id": torch.tensor(7)}


def runs(zero: Tensor) -> list[int]:
    """Lengths of the stretches that are true."""
    found, length = [], 0
    for one in [*zero.tolist(), False]:
        if one:
            length += 1
        elif length:
            found.append(length)
            length = 0
    return found


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(3)


def test_it_is_pure_in_sample_and_seed():
    augment = spec_augment(sample_rate=8000)
    given = sample()
    before = given["audio"].clone()
    first, again, other = augment(given, 1), augment(given, 1), augment(given, 2)
    assert torch.equal(first["audio"], again["audio"])
    assert not torch.equal(first["audio"], other["audio"])
    assert torch.equal(given["audio"], before)
    assert first["audio"].shape == before.shape
    assert first["tokens"] is given["tokens"]
    assert first["id"] is given["id"]


def test_gaps_are_silent_and_not_too_long():
    audio = with_gaps(sample()["audio"], 3, 800, generator())
    found = runs(audio == 0)
    assert 1 <= len(found) <= 3
    assert sum(found) > 0
    assert max(found) < 3 * 800
    kept = audio != 0
    assert torch.equal(audio[kept], sample()["audio"][kept])


def test_a_gap_is_at_most_its_share_of_a_short_clip():
    for seed in range(20):
        found = spec_augment(sample_rate=8000, bands=0, gaps=1, gap_seconds=9.0, gap_share=0.25)(sample(0.1), seed)
        assert sum(runs(found["audio"] == 0)) < 0.25 * 800


def test_a_band_is_taken_out_and_others_stay():
    audio = sample()["audio"]
    found = without_bands(audio, 8000, 1, 0.3, generator())
    before, after = torch.fft.rfft(audio), torch.fft.rfft(found)
    out = after.abs() < 1e-3
    (length,) = runs(out)
    torch.testing.assert_close(after[~out], before[~out], atol=1e-3, rtol=1e-4)
    hertz = out.nonzero().flatten() * 4000 / (len(before) - 1)
    mels = hertz_to_mel(hertz.double())
    assert length > 1
    assert float(mels[-1] - mels[0]) < 0.3 * float(hertz_to_mel(torch.tensor(4000.0)))


def test_nothing_asked_is_nothing_done():
    augment = spec_augment(sample_rate=8000, bands=0, gaps=0)
    assert torch.equal(augment(sample(), 1)["audio"], sample()["audio"])


def test_odd_lengths_stay():
    audio = torch.randn(801)
    assert without_bands(audio, 8000, 2, 0.2, generator()).shape == (801,)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"band_width": 1.5}, "band_width=1.5: give a share from 0 to 1"),
        ({"gap_share": -0.1}, "gap_share=-0.1: give a share from 0 to 1"),
        ({"bands": -1}, "bands=-1: give 0 or more"),
        ({"gaps": -2}, "gaps=-2: give 0 or more"),
        ({"gap_seconds": -math.inf}, "gap_seconds=-inf: give 0 or more"),
    ],
)
def test_impossible_numbers_are_refused(options: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        spec_augment(sample_rate=8000, **options)
