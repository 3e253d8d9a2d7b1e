from __future__ import annotations

import pytest
import torch
from torch.nn.functional import pad

from kdcore_speech.models.speaker import SpeakerNet, conformer_speaker, statistics_over_time
from small import clips

SMALL = {"sample_rate": 8000, "width": 16, "depth": 1, "heads": 2, "kernel": 5, "mels": 20, "dropout": 0.0}


def net() -> SpeakerNet:
    torch.manual_seed(0)
    return conformer_speaker(**SMALL, size=6).eval()


def test_mean_and_deviation_by_hand():
    hidden = torch.tensor([[[1.0, 4.0], [3.0, 4.0], [torch.nan, torch.inf]], [[2.0, 0.0], [2.0, 3.0], [5.0, 6.0]]])
    found = statistics_over_time(hidden, torch.tensor([2, 3]))
    wanted = torch.tensor([[2.0, 4.0, 1.0, 0.0], [3.0, 3.0, 2.0**0.5, 6.0**0.5]])
    torch.testing.assert_close(found, wanted, atol=4e-3, rtol=0)


def test_a_clip_of_one_frame_has_a_gradient():
    hidden = torch.ones(1, 3, 2, requires_grad=True)
    statistics_over_time(hidden, torch.tensor([1])).sum().backward()
    assert hidden.grad is not None
    assert hidden.grad.isfinite().all()


@torch.no_grad()
def test_padding_changes_nothing():
    audio, lengths = clips(2400, 1000)
    short, long = net()(audio, lengths), net()(pad(audio, (0, 800)), lengths)
    torch.testing.assert_close(short.embedding, long.embedding, rtol=1e-4, atol=1e-5)
    alone = net()(audio[1:, :1000], lengths[1:])
    torch.testing.assert_close(short.embedding[1:], alone.embedding, rtol=1e-4, atol=1e-5)


def test_it_says_how_many_frames_it_makes():
    made = net()
    audio, lengths = clips(2400, 1000)
    assert made(audio, lengths).frames.tolist() == made.frames(lengths).tolist()


def test_an_embedding_has_a_size():
    with pytest.raises(ValueError, match=r"^size=0: give at least 1$"):
        conformer_speaker(sample_rate=8000, size=0)
