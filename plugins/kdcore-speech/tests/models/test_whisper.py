"""Whisper as a recipe asks for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    BertConfig,
    GenerationConfig,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
)

from kdcore_speech.models.transcriber import Transcriber
from kdcore_speech.models.whisper import SIZES, whisper
from small import TOKENS, WHISPER, clips, transcriber

FACTS: dict[str, Any] = {"sample_rate": 16000, "audio_samples": 8000, "vocabulary": TOKENS, "blank": 0}
SHORT: dict[str, Any] = {**FACTS, "limit": 5}
LANGUAGES = {"lang_to_id": {"<|en|>": 8, "<|de|>": 6}, "task_to_id": {"transcribe": 9, "translate": 5}}


def save(folder: Path, rate: int = 16000, **generation: Any) -> Path:
    torch.manual_seed(1)
    special = {"pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 0, "decoder_start_token_id": 7}
    net = WhisperForConditionalGeneration(
        WhisperConfig(**WHISPER, **special, vocab_size=TOKENS, max_source_positions=50, apply_spec_augment=True)
    )
    net.generation_config = GenerationConfig(decoder_start_token_id=7, eos_token_id=0, pad_token_id=0, **generation)
    net.save_pretrained(folder)
    WhisperFeatureExtractor(feature_size=20, sampling_rate=rate).save_pretrained(folder)
    return folder


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    return save(tmp_path / "saved", no_timestamps_token_id=10, **LANGUAGES)


# --- fresh ------------------------------------------------------------------------------------------------------------


def test_a_fresh_one_starts_and_ends_with_the_blank():
    net = transcriber()
    assert isinstance(net, Transcriber)
    assert (net.prompt, net.end) == ((0,), 0)
    assert net.samples == 16000
    assert net.head.out_features == TOKENS


def test_the_default_is_the_paper_s_tiny():
    net = whisper(**{**FACTS, "vocabulary": 51865, "blank": 50257})
    assert net.samples == 480000
    assert sum(weight.numel() for weight in net.parameters()) == pytest.approx(39e6, rel=0.05)


def test_sizes_grow():
    layers, widths = ([size[key] for size in SIZES.values()] for key in ("encoder_layers", "d_model"))
    assert layers == [4, 6, 12, 24, 32]
    assert widths == [384, 512, 768, 1024, 1280]


def test_fresh_weights_follow_the_seed():
    first, same, other = (next(transcriber(seed=seed).parameters()) for seed in (3, 3, 4))
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


# --- from a folder ----------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_a_folder_gives_everything(saved: Path):
    net = whisper(**SHORT, pretrained=saved).eval()
    theirs = WhisperForConditionalGeneration.from_pretrained(saved).eval()
    audio, lengths = clips(9000)
    extractor = WhisperFeatureExtractor(feature_size=20, chunk_length=1)
    heard = extractor(audio[0].numpy(), sampling_rate=16000, return_tensors="pt").input_features
    before = torch.tensor([[7, 8, 9, 10, 3, 4]])
    wanted = theirs(input_features=heard, decoder_input_ids=before).logits[:, 3:]
    torch.testing.assert_close(net(audio, lengths, torch.tensor([[3, 4, 0]])).logits, wanted, rtol=1e-3, atol=2e-3)


def test_nothing_is_masked_at_random_whatever_the_folder_says(saved: Path):
    assert whisper(**SHORT, pretrained=saved).encoder.config.apply_spec_augment is False


@pytest.mark.parametrize(
    ("generation", "prompt"),
    [
        ({"no_timestamps_token_id": 10, **LANGUAGES}, (7, 8, 9, 10)),
        ({"no_timestamps_token_id": 10}, (7, 10)),  # those that know English only
        ({}, (7,)),
    ],
)
def test_the_prompt_is_what_the_folder_knows(tmp_path: Path, generation: dict[str, Any], prompt: tuple[int, ...]):
    assert whisper(**SHORT, pretrained=save(tmp_path, **generation)).prompt == prompt


def test_the_prompt_names_the_language(saved: Path):
    assert whisper(**SHORT, pretrained=saved, language="de").prompt == (7, 6, 9, 10)


def test_fewer_layers_are_the_first(saved: Path):
    whole, part = (whisper(**SHORT, pretrained=saved, options=options) for options in (None, {"decoder_layers": 1}))
    assert (len(whole.decoder.layers), len(part.decoder.layers)) == (2, 1)
    state = whole.state_dict()
    assert all(torch.equal(weight, state[name]) for name, weight in part.state_dict().items())


def test_it_may_hear_less_at_once(saved: Path):
    assert whisper(**SHORT, pretrained=saved, seconds=0.6).samples == 9600


# --- what is refused --------------------------------------------------------------------------------------------------


def refused(message: str, **keys: Any) -> None:
    with pytest.raises(ValueError, match=message):
        whisper(**{**SHORT, **keys})


def test_one_source_at_most(saved: Path):
    refused(r"^`pretrained` and `hub` both say where the weights are: keep one of them$", pretrained=saved, hub="a/b")


def test_a_field_that_does_not_exist():
    refused(r"^options\.deepness: WhisperConfig has no such field$", options={"deepness": 3})


def test_another_sample_rate(saved: Path):
    says = rf"^`{saved}` takes 16000 Hz, the data has 8000 Hz: set `data\.sample_rate: 16000`$"
    refused(says, pretrained=saved, sample_rate=8000)


@pytest.mark.parametrize("other", [{"vocabulary": 12}, {"blank": 3}])
def test_other_tokens(saved: Path, other: dict[str, int]):
    found = {"vocabulary": TOKENS, "blank": 0, **other}
    says = (
        rf"^`{saved}` writes 11 tokens and ends with 0, the data has {found['vocabulary']} and {found['blank']}: give "
    )
    refused(says + rf"the data its vocabulary \(`data\.vocabulary: {saved}`\)$", pretrained=saved, **other)


def test_a_folder_of_another_net(tmp_path: Path):
    BertConfig().save_pretrained(tmp_path)
    refused(rf"^`{tmp_path}` is a bert: give a whisper$", pretrained=tmp_path)


def test_a_folder_without_a_net(tmp_path: Path):
    refused(rf"^no net of speech can be read from `{tmp_path}`: ", pretrained=tmp_path)


def test_weights_that_do_not_fit(saved: Path):
    says = rf"^`{saved}` does not fit: \d+ weights below the head are missing, first `model\..+`$"
    refused(says, pretrained=saved, options={"encoder_ffn_dim": 48})


def test_a_language_that_it_does_not_know(saved: Path):
    says = rf"^language: `{saved}` does not know `fr`, such as <\|de\|>, <\|en\|>$"
    refused(says, pretrained=saved, language="fr")


def test_clips_that_are_too_long():
    says = r"^clips of up to 2\.0 s, and this net hears 1\.0 s: set `data\.max_duration: 1\.0`$"
    refused(says, audio_samples=32000, seconds=1, options=WHISPER)


def test_a_limit_beyond_the_decoder():
    refused(r"^limit=30: give from 1 to 19, which is what the decoder can hold$", limit=30, options=WHISPER)
