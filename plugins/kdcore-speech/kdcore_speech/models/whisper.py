"""Whisper from the library transformers: an encoder of sound and a decoder that writes down what it hears."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from kdcore_speech.features import LogMel
from kdcore_speech.models import library
from kdcore_speech.models.transcriber import Transcriber

SIZES: dict[str, dict[str, Any]] = {
    name: {
        "d_model": width,
        "encoder_layers": layers,
        "decoder_layers": layers,
        "encoder_attention_heads": width // 64,
        "decoder_attention_heads": width // 64,
        "encoder_ffn_dim": 4 * width,
        "decoder_ffn_dim": 4 * width,
    }
    for name, layers, width in (
        ("tiny", 4, 384),
        ("base", 6, 512),
        ("small", 12, 768),
        ("medium", 24, 1024),
        ("large", 32, 1280),
    )
}
"""The paper's sizes (its Table 1), as fields of transformers' configuration."""

HERTZ = 16000
"""Sample rate of every Whisper that was trained."""

FRAMES_PER_SECOND = 50
"""Of the encoder."""

HEAD = "proj_out."


def whisper(
    *,
    sample_rate: int,
    audio_samples: int,
    vocabulary: int,
    blank: int,
    size: Literal["tiny", "base", "small", "medium", "large"] = "tiny",
    seconds: float | None = None,
    limit: int = 64,
    language: str = "en",
    pretrained: Path | None = None,
    hub: str | None = None,
    options: dict[str, Any] | None = None,
) -> Transcriber:
    """Whisper: `front`, `encoder.layers.0` ..., `decoder.layers.0` ..., `head`; random weights by default.

    Distil-Whisper's student has its teacher's encoder, frozen, and some of its decoder's layers: ``init: {student:
    {from: teacher, map: {encoder: encoder, decoder.embed_tokens: decoder.embed_tokens, decoder.layers.1:
    decoder.layers.3, ...}}}`` and ``freeze: {student: [encoder.**]}``. Nothing is masked or dropped at random.

    Args:
        sample_rate: of the waveform; filled in from the data. A net from ``pretrained`` or ``hub`` takes 16000 Hz only.
        audio_samples: of the longest training clip; filled in from the data.
        vocabulary: how many tokens; filled in from the data.
        blank: the token that starts and ends a transcript; filled in from the data.
        size: the configuration, where neither ``pretrained`` nor ``hub`` gives it.
        seconds: what the net hears at once, silence included: 30 by default, as in the paper. Every clip costs as much.
        limit: tokens at most that it writes down.
        language: of a net from ``pretrained`` or ``hub`` that knows several.
        pretrained: a folder that ``save_pretrained`` wrote.
        hub: a name such as ``openai/whisper-tiny.en``, fetched when the net is made.
        options: further fields of transformers' ``WhisperConfig``, such as ``decoder_layers: 2``, the first of a given
            net.

    Raises:
        ValueError: both ``pretrained`` and ``hub``; a field that the configuration does not have; weights, tokens or a
            rate that do not fit; clips longer than it hears; a limit beyond what its decoder can hold.

    **Paper**: Radford et al., Robust Speech Recognition via Large-Scale Weak Supervision, 2022 (arXiv 2212.04356).
    **Deviations**: transcripts are written greedily, and no token is suppressed.
    """
    from transformers import WhisperConfig, WhisperForConditionalGeneration

    source = library.source_of(pretrained, hub)
    given = {"apply_spec_augment": False, "encoder_layerdrop": 0.0, "decoder_layerdrop": 0.0}
    given |= library.checked(options, WhisperConfig)
    if source is None:
        special = dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id", "decoder_start_token_id"), blank)
        net = WhisperForConditionalGeneration(
            WhisperConfig(**{**SIZES[size], **special, **given, "vocab_size": vocabulary})
        )
        prompt: tuple[int, ...] = (blank,)
    else:
        net = _given(source, given, sample_rate, vocabulary, blank)
        prompt = _prompt(source, net, language)
    made = Transcriber(
        LogMel(sample_rate=sample_rate, mels=net.config.num_mel_bins), net, prompt=prompt, end=blank, limit=limit
    )
    if seconds is not None:
        made.hear(round(seconds * FRAMES_PER_SECOND))
    made.check_length(audio_samples)
    return made


def _given(source: str, options: dict[str, Any], sample_rate: int, vocabulary: int, blank: int) -> Any:
    from transformers import WhisperForConditionalGeneration

    kind = library.config_of(source).model_type
    if kind != "whisper":
        raise ValueError(f"`{source}` is a {kind}: give a whisper")
    library.check_rate(source, library.settings_of(source).get("sampling_rate", HERTZ), sample_rate)
    net, fresh = library.loaded(WhisperForConditionalGeneration, source, options)
    # the head is the embedding: it may be absent from the file
    library.refuse_fresh(source, fresh, head=HEAD)
    own = net.config.vocab_size, net.config.eos_token_id
    if own != (vocabulary, blank):
        raise ValueError(
            f"`{source}` writes {own[0]} tokens and ends with {own[1]}, the data has {vocabulary} and {blank}: give "
            f"the data its vocabulary (`data.vocabulary: {source}`)"
        )
    return net


def _prompt(source: str, net: Any, language: str) -> tuple[int, ...]:
    """The tokens before a transcript: start, language, task, no time stamps; as many of them as the net knows."""
    told = net.generation_config
    prompt = [net.config.decoder_start_token_id]
    languages = getattr(told, "lang_to_id", None)
    if languages:
        if f"<|{language}|>" not in languages:
            raise ValueError(
                f"language: `{source}` does not know `{language}`, such as {', '.join(sorted(languages)[:5])}"
            )
        prompt += [languages[f"<|{language}|>"], told.task_to_id["transcribe"]]
    if getattr(told, "no_timestamps_token_id", None) is not None:
        prompt.append(told.no_timestamps_token_id)
    return tuple(prompt)
