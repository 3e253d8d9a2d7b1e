"""Tiny nets of transformers with random weights, saved as their trainers save them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertTokenizerFast,
    HubertConfig,
    HubertModel,
    WhisperConfig,
    WhisperForConditionalGeneration,
)

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def bert(folder: Path, words: Iterable[str]) -> Path:
    """A masked language model of these words, behind five of its own."""
    tokens = [*SPECIAL, *words]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(tokens))
    BertTokenizerFast(str(folder / "vocab.txt"), do_lower_case=False).save_pretrained(folder)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
    # far from uniform, so that a mistake shows
    BertForMaskedLM(BertConfig(vocab_size=len(tokens), initializer_range=1.0, **sizes)).save_pretrained(folder)
    return folder


def whisper(folder: Path, vocabulary: int) -> Path:
    """One with four layers in its decoder, that hears 2.4 s; token 0 starts and ends a transcript."""
    config = WhisperConfig(
        vocab_size=vocabulary,
        d_model=16,
        encoder_layers=1,
        decoder_layers=4,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=16,
        decoder_ffn_dim=16,
        max_source_positions=120,
        pad_token_id=0,
        bos_token_id=0,
        eos_token_id=0,
        decoder_start_token_id=0,
    )
    torch.manual_seed(0)
    WhisperForConditionalGeneration(config).save_pretrained(folder)
    return folder


def hubert(folder: Path) -> Path:
    """One with twelve layers, as the base one has."""
    torch.manual_seed(0)
    config = HubertConfig(
        hidden_size=16,
        num_attention_heads=2,
        intermediate_size=16,
        conv_dim=[8, 8],
        conv_kernel=[400, 3],
        conv_stride=[160, 2],
        num_conv_pos_embeddings=8,
        num_conv_pos_embedding_groups=2,
    )
    HubertModel(config).save_pretrained(folder)
    return folder
