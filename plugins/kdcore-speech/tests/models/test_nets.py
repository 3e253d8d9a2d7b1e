"""What all nets of our own promise: rates, padding, shapes, export."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kdcore_speech.models.conformer import conformer, conformer_tagger
from kdcore_speech.models.conv import conv, conv_tagger
from kdcore_speech.models.nets import mean_over_time

SMALL: dict[str, Any] = {"sample_rate": 8000, "width": 16, "depth": 2, "kernel": 5, "mels": 20}
HEADS: dict[str, Any] = {**SMALL, "heads": 2, "dropout": 0.0}
RECOGNISERS: dict[str, Callable[..., nn.Module]] = {
    "conv": partial(conv, **SMALL, vocabulary=7),
    "conv of stride 3": partial(conv, **SMALL, vocabulary=7, stride=3),
    "conformer": partial(conformer, **HEADS, vocabulary=7),
}
TAGGERS: dict[str, Callable[..., nn.Module]] = {
    "conv_tagger": partial(conv_tagger, **SMALL, classes=7),
    "conformer_tagger": partial(conformer_tagger, **HEADS, classes=7),
}
NETS = RECOGNISERS | TAGGERS
recognisers = pytest.mark.parametrize("name", RECOGNISERS)
nets = pytest.mark.parametrize("name", NETS)


def made(name: str) -> nn.Module:
    torch.manual_seed(0)
    return NETS[name]()


def clips(*lengths: int) -> tuple[Tensor, Tensor]:
    audio = 0.3 * torch.randn(len(lengths), max(lengths), generator=torch.Generator().manual_seed(1))
    ends = torch.tensor(lengths)
    return audio * (torch.arange(max(lengths)) < ends.unsqueeze(1)), ends


@recognisers
def test_it_says_how_many_frames_it_makes(name: str):
    net = made(name)
    audio, lengths = clips(4000, 2333, 801, 80)
    found = net(audio, lengths)
    assert found.logits.shape == (4, net.frames(4000), 7)
    assert found.frames.tolist() == [net.frames(samples) for samples in lengths.tolist()]
    assert torch.equal(net.frames(lengths), found.frames)
    assert int(found.frames.min()) >= 1
    stride = net.encoder.stem.stride
    assert net.frames(4000) == -(-50 // stride)


@nets
@pytest.mark.parametrize("training", [True, False])
def test_neighbours_and_padding_change_nothing(name: str, training: bool):
    net = made(name).train(training)
    audio, lengths = clips(4000, 2333, 801)
    together = net(audio, lengths)
    for row, samples in enumerate(lengths.tolist()):
        alone = net(audio[row : row + 1, :samples], lengths[row : row + 1])
        count = int(alone.frames)
        ours = together.logits[row] if name in TAGGERS else together.logits[row, :count]
        torch.testing.assert_close(ours, alone.logits[0], atol=1e-4, rtol=1e-4)


@nets
def test_everything_learns(name: str):
    net = made(name)
    net(*clips(1600, 900)).logits.square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in net.parameters())


@nets
def test_train_and_eval_give_the_same_kind_of_answer(name: str):
    net = made(name)
    given = clips(1600, 900)
    shapes = [[tuple(x.shape) for x in net.train(mode)(*given)] for mode in (True, False)]
    assert shapes[0] == shapes[1]


@pytest.mark.parametrize("name", ["conv", "conformer"])
def test_what_a_recogniser_hears_far_away(name: str):
    """A convolution hears its neighbourhood only, attention everything."""
    net = made(name).eval()
    audio, lengths = clips(16000)
    audio.requires_grad_()
    net(audio, lengths).logits[0, -1].square().sum().backward()
    assert audio.grad is not None
    # what is heard of the loudest place, by which features are scaled, is not hearing
    heard = audio.grad[0, :4000].count_nonzero() > 400
    assert bool(heard) == (name == "conformer")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["conv", "conformer_tagger"])
def test_it_can_be_exported_with_any_length(name: str):
    net = made(name).eval()
    given = clips(4000, 2333)
    dynamic = torch.export.Dim.DYNAMIC
    program = torch.export.export(net, given, dynamic_shapes=({0: dynamic, 1: dynamic}, {0: dynamic}))
    other = clips(3000, 1000, 2999)
    torch.testing.assert_close(program.module()(*other).logits, net(*other).logits, atol=1e-5, rtol=1e-4)


def test_the_mean_over_time_leaves_out_what_does_not_count():
    hidden = torch.tensor([[[1.0], [3.0], [torch.nan]], [[2.0], [4.0], [9.0]]])
    assert mean_over_time(hidden, torch.tensor([2, 3])).tolist() == [[2.0], [5.0]]


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (conv, {"width": 0}, "width=0: give at least 1"),
        (conv, {"depth": 0}, "depth=0: give at least 1"),
        (conv, {"stride": 0}, "stride=0: give at least 1"),
        (conv, {"kernel": 4}, "kernel=4: give an odd number"),
        (conformer, {"kernel": 4}, "kernel=4: give an odd number"),
        (conformer, {"heads": 3}, "width=16 is no multiple of 6, twice the 3 heads"),
        (conformer, {"heads": 0}, "heads=0: give at least 1"),
        (conv, {"mels": 300}, r"mels=300: \d+ of these bands hold no frequency"),
    ],
)
def test_impossible_sizes(make: Callable[..., nn.Module], options: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        make(**{**SMALL, "vocabulary": 7, **options})
