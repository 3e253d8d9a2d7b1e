"""Tiny nets of transformers and clips of noise, for tests of what is made of them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kdcore_speech.models.transcriber import Transcriber
from kdcore_speech.models.whisper import whisper

SSL: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "conv_dim": [8] * 3,
    "conv_kernel": [10, 3, 2],
    "conv_stride": [5, 2, 2],
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 2,
}
"""Of wav2vec 2.0, HuBERT and WavLM: a frame of 20 samples, of which one sees 50."""

LARGE: dict[str, Any] = {**SSL, "do_stable_layer_norm": True, "feat_extract_norm": "layer"}
"""The same as the large ones are made: norms elsewhere."""

WHISPER: dict[str, Any] = {
    "d_model": 16,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 32,
    "decoder_ffn_dim": 32,
    "max_target_positions": 20,
    "num_mel_bins": 20,
    "init_std": 0.3,
}
TOKENS = 11


def clips(*lengths: int) -> tuple[Tensor, Tensor]:
    audio = 0.3 * torch.randn(len(lengths), max(lengths), generator=torch.Generator().manual_seed(1)) + 0.1
    ends = torch.tensor(lengths)
    return audio * (torch.arange(max(lengths)) < ends.unsqueeze(1)), ends


def transcriber(limit: int = 5, seed: int = 0, **options: Any) -> Transcriber:
    """One that hears a second and knows eleven tokens, of which 0 starts and ends."""
    torch.manual_seed(seed)
    made = whisper(
        sample_rate=16000,
        audio_samples=8000,
        vocabulary=TOKENS,
        blank=0,
        seconds=1,
        limit=limit,
        options={**WHISPER, **options},
    )
    return made.eval()
