"""WavLM's attention against that of transformers, which it replaces."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import WavLMConfig, WavLMModel

from kdcore_speech.models.wavlm import RelativeAttention
from small import SSL

pytestmark = pytest.mark.filterwarnings("ignore:Support for mismatched key_padding_mask")
MASK = torch.tensor([[True] * 7, [True] * 4 + [False] * 3])


def library(dropout: float = 0.0) -> Any:
    torch.manual_seed(0)
    config = WavLMConfig(**SSL, attention_dropout=dropout, initializer_range=1.0, mask_time_prob=0.0)
    attention = WavLMModel(config).encoder.layers[0].attention.eval()
    torch.nn.init.normal_(attention.gru_rel_pos_const)  # 1 in a fresh net
    return attention


def frames() -> Tensor:
    return torch.randn(2, 7, 16, generator=torch.Generator().manual_seed(1))


def test_it_agrees_with_transformers():
    theirs = library()
    ours = RelativeAttention(theirs)
    bias = ours.bias(7)
    wanted, _, whole = theirs(frames(), attention_mask=MASK)
    torch.testing.assert_close(bias.expand(2, -1, -1, -1).flatten(0, 1), whole)
    found, _, passed = ours(frames(), MASK, bias)
    assert passed is bias
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


def test_the_gate_matters():
    ours = RelativeAttention(library())
    before, _, _ = ours(frames(), MASK, ours.bias(7))
    torch.nn.init.zeros_(ours.own.gru_rel_pos_linear.weight)
    after, _, _ = ours(frames(), MASK, ours.bias(7))
    assert not torch.allclose(before, after, atol=1e-3)


def test_frames_that_are_masked_are_not_seen():
    ours = RelativeAttention(library())
    noisy = torch.where(MASK.unsqueeze(-1), frames(), 9.0)
    found, _, _ = ours(noisy, MASK, ours.bias(7))
    wanted, _, _ = ours(frames(), MASK, ours.bias(7))
    torch.testing.assert_close(found[MASK], wanted[MASK])


def test_dropout_is_for_training():
    ours = RelativeAttention(library(dropout=0.5))
    bias = ours.bias(7)
    quiet, again = ours.eval()(frames(), MASK, bias)[0], ours(frames(), MASK, bias)[0]
    assert torch.equal(quiet, again)
    assert not torch.equal(ours.train()(frames(), MASK, bias)[0], quiet)
