"""Tiny models for the tests."""

from __future__ import annotations

import copy

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from kdcore_specdec.models.causal import CausalLM


def llama(
    *, seed: int = 0, layers: int = 2, vocabulary: int = 40, width: int = 16, context: int = 64, tied: bool = False
) -> CausalLM:
    """A Llama with wide initial weights, so that its answers are not all alike; in eval mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = LlamaConfig(
            vocab_size=vocabulary,
            hidden_size=width,
            intermediate_size=2 * width,
            num_hidden_layers=layers,
            num_attention_heads=2,
            num_key_value_heads=1,
            max_position_embeddings=context,
            initializer_range=0.3,
            tie_word_embeddings=tied,
            bos_token_id=0,
            eos_token_id=None,
            pad_token_id=None,
        )
        return CausalLM(LlamaForCausalLM(config)).eval()


def noisy(model: CausalLM, scale: float = 0.05, seed: int = 1) -> CausalLM:
    """A copy that often, but not always, says the same: a fair draft."""
    other = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter += scale * torch.randn(parameter.shape, generator=generator)
    return other
