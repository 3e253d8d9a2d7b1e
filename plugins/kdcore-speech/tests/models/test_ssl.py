"""The shared encoder against transformers' own, a clip at a time."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import CONFIG_MAPPING, AutoModel

from kdcore_speech.models.ssl import SSLEncoder, Waveform
from small import LARGE, SSL, clips

KINDS = ("wav2vec2", "hubert", "wavlm")
kinds = pytest.mark.parametrize("kind", KINDS)
sizes = pytest.mark.parametrize("options", [SSL, LARGE], ids=["base", "large"])
QUIET = {"mask_time_prob": 0.0, "layerdrop": 0.0}


def library(kind: str, options: dict[str, Any]) -> Any:
    torch.manual_seed(0)
    return AutoModel.from_config(CONFIG_MAPPING[kind](**options, **QUIET)).eval()


def encoder(kind: str, options: dict[str, Any]) -> SSLEncoder:
    return SSLEncoder(library(kind, options)).eval()


@kinds
@sizes
@torch.no_grad()
def test_a_clip_among_others_has_the_answer_that_transformers_gives_it_alone(kind: str, options: dict[str, Any]):
    audio, lengths = clips(400, 350, 123)
    theirs, ours = library(kind, options), encoder(kind, options)
    hidden, frames = ours(audio, lengths)
    for clip, length, found, count in zip(audio, lengths.tolist(), hidden, frames.tolist(), strict=True):
        wanted = theirs(clip[None, :length]).last_hidden_state[0]
        assert count == len(wanted)
        torch.testing.assert_close(found[:count], wanted, rtol=1e-4, atol=1e-5)


@kinds
@torch.no_grad()
def test_what_stands_behind_a_clip_changes_nothing(kind: str):
    net = encoder(kind, SSL)
    audio, lengths = clips(300, 170)
    hidden, frames = net(audio, lengths)
    longer, _ = net(pad(audio, (0, 200)), lengths)
    noisy = torch.where(torch.arange(300) < lengths.unsqueeze(1), audio, 5.0)
    loud, _ = net(noisy, lengths)
    for row, count in enumerate(frames.tolist()):
        torch.testing.assert_close(longer[row, :count], hidden[row, :count], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(loud[row, :count], hidden[row, :count], rtol=1e-4, atol=1e-5)


def test_frames_are_counted_as_convolutions_count_them():
    net = encoder("hubert", SSL)
    assert net.reach == 10 + 5 * (3 - 1) + 10 * (2 - 1)
    samples = list(range(1, 120))
    by_hand = [max(1, (((max(s, 30) - 10) // 5 + 1 - 3) // 2 + 1 - 2) // 2 + 1) for s in samples]
    assert [net.frames(s) for s in samples] == by_hand
    assert net.frames(torch.tensor(samples)).tolist() == by_hand
    assert net(*clips(117))[0].shape[1] == net.frames(117)


@torch.no_grad()
def test_a_clip_too_short_for_a_frame_is_filled_with_silence():
    net = encoder("wav2vec2", SSL)
    audio, lengths = clips(12)
    hidden, frames = net(audio, lengths)
    assert frames.tolist() == [1]
    torch.testing.assert_close(hidden, net(pad(audio, (0, 18)), lengths)[0])


@kinds
def test_nothing_is_random_in_training_but_dropout(kind: str):
    off = {"hidden_dropout": 0.0, "attention_dropout": 0.0, "activation_dropout": 0.0, "feat_proj_dropout": 0.0}
    net = encoder(kind, {**SSL, **off}).train()
    audio, lengths = clips(200, 90)
    torch.testing.assert_close(net(audio, lengths)[0], net.eval()(audio, lengths)[0])


@kinds
def test_every_weight_learns(kind: str):
    net = encoder(kind, SSL).train()
    hidden, _ = net(*clips(200, 90))
    hidden.square().sum().backward()
    silent = [name for name, weight in net.named_parameters() if weight.grad is None or not weight.grad.any()]
    # a bias of all keys alike moves no attention
    assert [name for name in silent if not name.endswith("k_proj.bias")] == []


@kinds
def test_blocks_give_frames(kind: str):
    net = encoder(kind, SSL)
    seen: list[Tensor] = []
    net.blocks[1].register_forward_hook(lambda _module, _args, output: seen.append(output))
    hidden, _ = net(*clips(200))
    assert torch.equal(seen[0], hidden)


def test_half_precision():
    hidden, _ = encoder("wav2vec2", SSL).bfloat16()(*clips(200, 90))
    assert hidden.dtype == torch.bfloat16
    assert hidden.isfinite().all()


def test_an_adapter_is_refused():
    with pytest.raises(ValueError, match=r"^add_adapter: an adapter behind the blocks is not supported, set it to fal"):
        encoder("wav2vec2", {**SSL, "add_adapter": True})


# --- the waveform -----------------------------------------------------------------------------------------------------


def test_a_waveform_is_scaled_over_its_own_length():
    audio, lengths = clips(300, 170)
    found, same = Waveform(scaled=True)(pad(audio, (0, 30), value=7.0), lengths)
    assert same is lengths
    for row, length in enumerate(lengths.tolist()):
        clip = audio[row, :length].double()
        wanted = (clip - clip.mean()) / (clip.var(unbiased=False) + 1e-7).sqrt()
        torch.testing.assert_close(found[row, :length], wanted.float())
        assert not found[row, length:].any()


def test_a_waveform_may_stay_as_it_is():
    audio, lengths = clips(300, 170)
    assert torch.equal(Waveform(scaled=False)(audio, lengths)[0], audio)


def test_silence_stays_silence():
    assert not Waveform(scaled=True)(torch.zeros(1, 50), torch.tensor([50]))[0].any()
