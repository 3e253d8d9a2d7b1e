"""A cache that forgets reads on as if it had never read what it forgot."""

from __future__ import annotations

import pytest
import torch
from made import llama
from transformers import MistralConfig, MistralForCausalLM

from kdcore_specdec.decoding.cached import Cached
from kdcore_specdec.models.causal import CausalLM

IDS = torch.tensor([[1, 5, 3, 7, 2, 9, 4, 4, 8, 0, 6, 3]])


def sliding() -> CausalLM:
    """A window of 4 tokens: what falls out of it must come back when the end is forgotten."""
    torch.manual_seed(0)
    config = MistralConfig(
        vocab_size=40, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, sliding_window=4, initializer_range=0.3, max_position_embeddings=64,
    )  # fmt: skip
    return CausalLM(MistralForCausalLM(config)).eval()


@torch.inference_mode()
@pytest.mark.parametrize("make", [llama, sliding])
def test_forgetting(make):
    model = make()
    cached = Cached(model, can_forget=True)
    cached.read(IDS[:, :6])
    cached.forget(0)
    cached.read(torch.tensor([[11, 12, 13]]))
    cached.forget(2)
    known = torch.cat([IDS[:, :6], torch.tensor([[11]]), IDS[:, 6:9]], 1)
    found = cached.next_logits(IDS[:, 6:9])
    assert torch.allclose(found, model.lm(known).logits[0, -1], atol=1e-5)


@torch.inference_mode()
def test_layers_and_logits():
    model = llama()
    cached = Cached(model, layers=(0, -1))
    cached.read(IDS[:, :3])
    found, whole = cached.read(IDS[:, 3:6]), model(IDS[:, :6], layers=(0, -1))
    for index in (0, -1):
        assert torch.allclose(found.layers[index], whole.layers[index][:, 3:], atol=1e-5)
    assert found.logits is None
    assert torch.allclose(cached.logits(found.hidden), whole.logits[:, 3:], atol=1e-5)
