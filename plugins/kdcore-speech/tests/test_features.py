from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from kdcore_speech.features import LogMel, fourier_basis, hertz_to_mel, mel_bands, mel_to_hertz


def clips(*lengths: int) -> tuple[Tensor, Tensor]:
    """Noise, of which each clip ends at its length."""
    audio = 0.3 * torch.randn(len(lengths), max(lengths), generator=torch.Generator().manual_seed(0))
    ends = torch.tensor(lengths)
    return audio * (torch.arange(max(lengths)) < ends.unsqueeze(1)), ends


def naive(audio: Tensor, sample_rate: int, mels: int) -> Tensor:
    """Frame by frame, with a transform of one frame by the definition, and triangles corner by corner: (T, mels)."""
    wave = audio.double().tolist()
    window, hop = round(0.025 * sample_rate), round(0.010 * sample_rate)
    half = window // 2
    padded = wave[half:0:-1] + wave + [0.0] * window
    hann = [0.5 - 0.5 * math.cos(2 * math.pi * i / window) for i in range(window)]
    top = float(hertz_to_mel(torch.tensor(sample_rate / 2)))
    corners = [float(mel_to_hertz(torch.tensor(top * i / (mels + 1), dtype=torch.float64))) for i in range(mels + 2)]
    rows = []
    for start in range(0, -(-len(wave) // hop) * hop, hop):
        frame = torch.tensor([padded[start + i] * hann[i] for i in range(window)], dtype=torch.float64)
        power = torch.fft.rfft(frame).abs().square().tolist()
        row = []
        for low, centre, high in zip(corners, corners[1:], corners[2:], strict=False):
            energy = 0.0
            for k, value in enumerate(power):
                hertz = k * sample_rate / window
                if low < hertz <= centre:
                    energy += value * (hertz - low) / (centre - low) * 2 / (high - low)
                elif centre < hertz < high:
                    energy += value * (high - hertz) / (high - centre) * 2 / (high - low)
            row.append(math.log10(max(energy, 1e-10)))
        rows.append(row)
    found = torch.tensor(rows)
    return (found.clamp(min=float(found.max()) - 8) + 4) / 4


def test_as_computed_frame_by_frame():
    audio, lengths = clips(1000)
    found, frames = LogMel(sample_rate=8000, mels=20)(audio, lengths)
    expected = naive(audio[0], 8000, 20)
    assert frames.tolist() == [13]
    torch.testing.assert_close(found[0], expected, atol=1e-4, rtol=1e-4)


def test_as_whisper_is_given_them():
    transformers = pytest.importorskip("transformers")
    audio, lengths = clips(16000, 8000)
    found, frames = LogMel(sample_rate=16000, mels=80)(audio, lengths)
    assert frames.tolist() == [100, 50]
    for clip, features, samples, count in zip(audio, found, lengths.tolist(), frames.tolist(), strict=True):
        extractor = transformers.WhisperFeatureExtractor()
        theirs = extractor(clip[:samples].numpy(), sampling_rate=16000, return_tensors="pt").input_features[0].T
        torch.testing.assert_close(features[:count], theirs[:count], atol=1e-4, rtol=1e-4)


def test_neighbours_and_padding_change_nothing():
    front = LogMel(sample_rate=8000)
    audio, lengths = clips(4000, 2500)
    together, frames = front(audio, lengths)
    alone, _ = front(audio[1:, :2500], lengths[1:])
    assert together.shape == (2, 50, 40)
    assert frames.tolist() == [50, 32]
    torch.testing.assert_close(together[1, :32], alone[0])
    assert (together[1, 32:] == 0).all()


def test_silence_and_a_short_clip_are_finite():
    front = LogMel(sample_rate=8000)
    found, frames = front(torch.zeros(1, 200), torch.tensor([200]))
    assert frames.tolist() == [3]
    # silence is the floor of every band: (log10 1e-10 + 4) / 4
    torch.testing.assert_close(found, torch.full((1, 3, 40), -1.5))
    assert front(0.1 * torch.ones(1, 40), torch.tensor([40]))[0].isfinite().all()


def test_a_tone_is_loudest_in_its_band():
    time = torch.arange(4000) / 8000
    front = LogMel(sample_rate=8000)
    for hertz in (440.0, 1000.0, 2500.0):
        found, _ = front(torch.sin(2 * math.pi * hertz * time).unsqueeze(0), torch.tensor([4000]))
        mel = float(hertz_to_mel(torch.tensor(hertz)) / hertz_to_mel(torch.tensor(4000.0)) * 41 - 1)
        assert abs(int(found[0, 25].argmax()) - mel) <= 1


def test_what_is_far_below_the_loudest_is_cut():
    time = torch.arange(8000) / 8000
    audio = torch.sin(2 * math.pi * 440 * time) * torch.where(time < 0.5, 1.0, 1e-9)
    found, _ = LogMel(sample_rate=8000)(audio.unsqueeze(0), torch.tensor([8000]))
    assert found.max() - found.min() == pytest.approx(8 / 4)


def test_half_precision_around_it_changes_nothing():
    front = LogMel(sample_rate=8000)
    audio, lengths = clips(2000)
    with torch.autocast("cpu", torch.bfloat16):
        found, _ = front(audio, lengths)
    assert torch.equal(found, front(audio, lengths)[0])


def test_gradients_reach_the_waveform():
    audio, lengths = clips(800, 400)
    audio.requires_grad_()
    LogMel(sample_rate=8000)(audio, lengths)[0].sum().backward()
    assert audio.grad is not None
    assert audio.grad.isfinite().all()
    assert audio.grad[0].abs().sum() > 0


def test_bands_have_equal_area_and_overlap_by_halves():
    bands = mel_bands(10, 4001, 8000)
    torch.testing.assert_close(bands.sum(0), torch.ones(10), atol=1e-3, rtol=0)
    assert ((bands > 0).sum(1) <= 2).all()


def test_the_scale_is_linear_to_1000_hertz_and_then_a_factor_of_6_4_is_27_mels():
    hertz = torch.tensor([0.0, 500.0, 1000.0, 6400.0], dtype=torch.float64)
    torch.testing.assert_close(hertz_to_mel(hertz), torch.tensor([0.0, 7.5, 15.0, 42.0], dtype=torch.float64))
    torch.testing.assert_close(mel_to_hertz(hertz_to_mel(hertz)), hertz)


def test_the_basis_is_a_windowed_transform():
    frame = torch.randn(200, generator=torch.Generator().manual_seed(0))
    spectrum = torch.fft.rfft(frame * torch.hann_window(200))
    found = fourier_basis(200)[:, 0] @ frame
    torch.testing.assert_close(found[:101], spectrum.real, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(-found[101:], spectrum.imag, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("options", [{"mels": 0}, {"hop": 0.0}, {"window": 0.0}, {"sample_rate": 0}])
def test_sizes_that_leave_nothing_are_refused(options: dict[str, int]):
    (name,) = options
    with pytest.raises(ValueError, match="is too small: half a window is"):
        LogMel(**{"sample_rate": 8000, **options})
    assert name


def test_bands_without_a_frequency_are_refused():
    message = r"mels=200: \d+ of these bands hold no frequency of a window of 200 samples at 8000 Hz: set fewer `mels`"
    with pytest.raises(ValueError, match=message):
        LogMel(sample_rate=8000, mels=200)
