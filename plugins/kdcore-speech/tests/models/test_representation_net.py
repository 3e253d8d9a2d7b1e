from __future__ import annotations

import pytest
import torch
from torch.nn.functional import pad

from kdcore_speech.models.conformer import conformer
from kdcore_speech.models.representation import BareEncoder, conformer_encoder
from small import clips

SMALL = {"sample_rate": 8000, "width": 16, "depth": 2, "heads": 2, "kernel": 5, "mels": 20, "dropout": 0.0}


def encoder() -> BareEncoder:
    torch.manual_seed(0)
    return conformer_encoder(**SMALL).eval()


@torch.no_grad()
def test_it_is_the_recogniser_s_body():
    recogniser, bare = conformer(**SMALL, vocabulary=5).eval(), encoder()
    wanted = {name: weight for name, weight in recogniser.state_dict().items() if not name.startswith("head.")}
    assert wanted.keys() == bare.state_dict().keys()
    bare.load_state_dict(wanted)
    audio, lengths = clips(2400, 1000)
    found = bare(audio, lengths)
    answer = recogniser(audio, lengths)
    torch.testing.assert_close(recogniser.head(found.hidden), answer.logits)
    assert torch.equal(found.frames, answer.frames)


@torch.no_grad()
def test_padding_changes_nothing():
    net = encoder()
    audio, lengths = clips(2400, 1000)
    short, long = net(audio, lengths), net(pad(audio, (0, 800)), lengths)
    for row, count in enumerate(short.frames.tolist()):
        torch.testing.assert_close(short.hidden[row, :count], long.hidden[row, :count], rtol=1e-4, atol=1e-5)


def test_it_says_how_many_frames_it_makes():
    net = encoder()
    audio, lengths = clips(2400, 1000)
    found = net(audio, lengths)
    assert found.hidden.shape == (2, net.frames(2400), 16)
    assert found.frames.tolist() == net.frames(lengths).tolist() == [net.frames(2400), net.frames(1000)]


def test_sizes_are_checked():
    with pytest.raises(ValueError, match=r"^kernel=4: give an odd number"):
        conformer_encoder(sample_rate=8000, kernel=4)
