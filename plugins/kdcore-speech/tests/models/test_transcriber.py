"""Whisper's two ways of working: told what was said, and writing it down."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from kdcore.signals import IGNORE
from kdcore.taps import Taps
from torch import Tensor
from torch.nn.functional import pad
from transformers import WhisperConfig, WhisperFeatureExtractor, WhisperForConditionalGeneration

from kdcore_speech.features import LogMel
from kdcore_speech.models.transcriber import Transcriber
from small import TOKENS, WHISPER, clips, transcriber

LABELS = torch.tensor([[3, 4, 0, IGNORE], [1, 2, 5, 0]])
PROMPT = (7, 8, 9)


def library() -> Any:
    torch.manual_seed(0)
    special = {"pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 0, "decoder_start_token_id": 7}
    config = WhisperConfig(**WHISPER, **special, vocab_size=TOKENS, max_source_positions=50)
    return WhisperForConditionalGeneration(config).eval()


def wrapped(limit: int = 6) -> Transcriber:
    front = LogMel(sample_rate=16000, mels=20)
    return Transcriber(front, library(), prompt=PROMPT, end=0, limit=limit).eval()


def features(clip: Tensor) -> Tensor:
    extractor = WhisperFeatureExtractor(feature_size=20, chunk_length=1)
    found: Tensor = extractor(clip.numpy(), sampling_rate=16000, return_tensors="pt").input_features
    return found


@torch.no_grad()
def test_told_what_was_said_it_agrees_with_transformers():
    audio, lengths = clips(12000, 7001)
    found = wrapped()(audio, lengths, LABELS)
    for row, (clip, length) in enumerate(zip(audio, lengths.tolist(), strict=True)):
        before = torch.tensor([[*PROMPT, *LABELS[row, :-1].clamp(min=0).tolist()]])
        wanted = library()(input_features=features(clip[:length]), decoder_input_ids=before).logits[0, 2:]
        said = LABELS[row] != IGNORE
        torch.testing.assert_close(found.logits[row][said], wanted[said], rtol=1e-3, atol=2e-3)


@torch.no_grad()
def test_what_it_writes_is_the_likeliest_token_again_and_again():
    audio, lengths = clips(12000, 7001, 300)
    net, theirs = wrapped(), library()
    found = net.transcribe(audio, lengths)
    for row, (clip, length) in enumerate(zip(audio, lengths.tolist(), strict=True)):
        tokens = list(PROMPT)
        while len(tokens) < len(PROMPT) + net.limit:
            logits = theirs(input_features=features(clip[:length]), decoder_input_ids=torch.tensor([tokens])).logits
            tokens.append(int(logits[0, -1].argmax()))
            if tokens[-1] == 0:
                tokens.pop()
                break
        wanted = tokens[len(PROMPT) :]
        assert [token for token in found[row].tolist() if token != IGNORE] == wanted
    assert len({tuple(row) for row in found.tolist()}) > 1  # it listens


@torch.no_grad()
def test_it_stops_where_all_have_ended():
    net = wrapped()
    net.head = copy.deepcopy(net.head)  # not tied for this test
    net.head.weight.zero_()
    assert net.transcribe(*clips(8000, 500)).tolist() == [[IGNORE], [IGNORE]]


@pytest.mark.slow  # torch compiles its loop
@torch.no_grad()
def test_written_with_all_tokens_read_again_it_is_the_same():
    net = wrapped()
    hidden = net._heard(*clips(12000, 7001, 300))
    written = net._written(hidden)
    again = net._written_again(hidden)
    assert torch.equal(again, pad(written, (0, net.limit - written.shape[1]), value=IGNORE))


@torch.no_grad()
def test_what_stands_behind_a_clip_changes_nothing():
    net = wrapped()
    audio, lengths = clips(9000, 4000)
    short = net(audio, lengths, LABELS, listen=True)
    noisy = torch.where(torch.arange(9000) < lengths.unsqueeze(1), audio, 5.0)
    for other in (pad(audio, (0, 3000)), noisy):
        found = net(other, lengths, LABELS, listen=True)
        torch.testing.assert_close(found.logits, short.logits, rtol=1e-4, atol=1e-4)
        assert torch.equal(found.heard, short.heard)
    alone = net(audio[1:, :4000], lengths[1:], LABELS[1:])
    torch.testing.assert_close(alone.logits, short.logits[1:], rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_a_token_does_not_see_those_after_it():
    net = wrapped()
    audio, lengths = clips(9000, 4000)
    other = LABELS.clone()
    other[:, 2:] = 6
    found = [net(audio, lengths, labels).logits[:, :3] for labels in (LABELS, other)]
    torch.testing.assert_close(*found)


@torch.no_grad()
def test_without_listening_it_says_the_likeliest_after_the_true_ones():
    net = wrapped()
    found = net(*clips(9000, 4000), LABELS)
    best = found.logits.argmax(-1).tolist()
    for row, labels in enumerate(LABELS.tolist()):
        wanted = []
        for token, label in zip(best[row], labels, strict=True):
            wanted.append(IGNORE if token == 0 or label == IGNORE or (wanted and wanted[-1] == IGNORE) else token)
        assert found.heard[row].tolist() == wanted


def test_frames_are_those_of_the_encoder():
    net = wrapped()
    found = net(*clips(9000, 321), LABELS)
    assert net.frames(9000) == 29  # 57 hops of 160 samples, two to a frame
    assert found.frames.tolist() == [29, 2]
    assert net.frames(torch.tensor([321])).tolist() == [2]


def test_taps_of_the_encoder_and_the_decoder():
    net = wrapped()
    paths = {"heard": "encoder/last_hidden_state", "layer": "encoder.layers.1", "told": "decoder.layers.0"}
    taps = Taps(net, paths, "net")
    with taps.armed():
        net(*clips(9000, 321), LABELS)
    shapes = {name: tuple(x.shape) for name, x in taps.take().items()}
    assert shapes == {"tap.heard": (2, 50, 16), "tap.layer": (2, 50, 16), "tap.told": (2, 6, 16)}


def test_every_weight_learns_but_the_encoder_s_positions():
    net = wrapped().train()
    net(*clips(9000, 4000), LABELS).logits.square().sum().backward()
    silent = [name for name, weight in net.named_parameters() if weight.grad is None]
    assert silent == ["encoder.embed_positions.weight"]


def test_the_head_is_the_embedding():
    net = copy.deepcopy(transcriber())
    assert net.head.weight is net.decoder.embed_tokens.weight


def test_half_precision():
    found = wrapped().bfloat16()(*clips(9000, 4000), LABELS, listen=True)
    assert found.logits.dtype == torch.bfloat16
    assert found.logits.isfinite().all()


# --- lengths ----------------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_it_may_hear_less_at_once():
    net = wrapped()
    places = net.encoder.embed_positions.weight.clone()
    net.hear(30)
    assert net.samples == 30 * 320
    assert torch.equal(net.encoder.embed_positions.weight, places[:30])
    assert not net.encoder.embed_positions.weight.requires_grad
    found = net(*clips(9000, 4000), LABELS)
    assert found.frames.tolist() == [29, 13]


def test_as_much_as_it_has_places_for():
    for frames in (0, 51):
        with pytest.raises(ValueError, match=rf"^seconds: {frames} frames are wanted, and this net has 1 to 50$"):
            wrapped().hear(frames)


def test_clips_that_are_too_long():
    says = r"^clips of up to 1\.1 s, and this net hears 1\.0 s: set `data\.max_duration: 1\.0`$"
    with pytest.raises(ValueError, match=says):
        wrapped()(*clips(17600), LABELS[:1])


def test_transcripts_that_are_too_long():
    net = wrapped()
    assert net.longest == 17
    says = r"^a transcript of 18 tokens, its end included, is longer than the 17 that the decoder can hold: leave such"
    with pytest.raises(ValueError, match=says):
        net(*clips(8000), torch.ones(1, 18, dtype=torch.int64))


@pytest.mark.parametrize("limit", [0, 18])
def test_limits(limit: int):
    with pytest.raises(ValueError, match=rf"^limit={limit}: give from 1 to 17, which is what the decoder can hold$"):
        wrapped(limit)
