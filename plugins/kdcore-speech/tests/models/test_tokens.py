"""A class token and a distillation token before the frames."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from kdcore_speech.models.tokens import TokenTagger, token_tagger


@pytest.fixture
def net() -> TokenTagger:
    torch.manual_seed(0)
    made = token_tagger(sample_rate=8000, classes=5, width=16, depth=2, heads=2, vectors=3, mels=8, dropout=0.0)
    torch.nn.init.normal_(made.encoder.class_token)
    return made


@pytest.fixture
def clips() -> tuple[Tensor, Tensor]:
    lengths = torch.tensor([2400, 1500, 400])
    audio = 0.1 * torch.randn(3, 2400, generator=torch.Generator().manual_seed(1))
    return audio * (torch.arange(2400) < lengths.unsqueeze(1)), lengths


def test_two_rows_of_logits_and_a_vector_for_each_clip(net: TokenTagger, clips: tuple[Tensor, Tensor]):
    said = net(*clips)
    assert said.logits.shape == said.distillation.shape == (3, 5)
    assert said.embedding.shape == (3, 32)
    assert said.frames.tolist() == [net.encoder.frames(net.front.frames(n)) for n in clips[1].tolist()]


def test_the_two_heads_read_two_tokens(net: TokenTagger, clips: tuple[Tensor, Tensor]):
    said = net.eval()(*clips)
    ours, distilled = said.embedding[:, :16], said.embedding[:, 16:]
    torch.testing.assert_close(said.logits, net.head(ours))
    torch.testing.assert_close(said.distillation, net.distillation_head(distilled))
    assert not torch.allclose(ours, distilled)


def test_each_head_teaches_its_own_token(net: TokenTagger, clips: tuple[Tensor, Tensor]):
    said = net.eval()(*clips)
    said.logits.sum().backward(retain_graph=True)
    assert net.distillation_head.weight.grad is None
    assert net.head.weight.grad is not None
    net.zero_grad(set_to_none=True)
    said.distillation.sum().backward()
    assert net.head.weight.grad is None
    # the tokens see each other, and the blocks are shared
    assert all(p.grad is not None for p in net.encoder.parameters())


def test_padding_changes_nothing(net: TokenTagger, clips: tuple[Tensor, Tensor]):
    audio, lengths = clips
    whole = net.eval()(audio, lengths)
    for row, count in enumerate(lengths.tolist()):
        alone = net(audio[row : row + 1, :count], lengths[row : row + 1])
        torch.testing.assert_close(alone.embedding[0], whole.embedding[row], atol=1e-5, rtol=1e-4)


def test_the_class_token_is_drawn_in_training_and_their_mean_otherwise(net: TokenTagger, clips: tuple[Tensor, Tensor]):
    tokens = net.encoder.train()._class_tokens(200)
    found = {tuple(row) for row in tokens.tolist()}
    assert found == {tuple(row) for row in net.encoder.class_token.tolist()}
    torch.testing.assert_close(net.encoder.eval()._class_tokens(2), net.encoder.class_token.mean(0).expand(2, -1))
    net.eval()
    assert torch.equal(net(*clips).logits, net(*clips).logits)


def test_a_single_vector_is_the_token_throughout(clips: tuple[Tensor, Tensor]):
    net = token_tagger(sample_rate=8000, classes=5, width=16, depth=1, heads=2, vectors=1, mels=8, dropout=0.0)
    torch.testing.assert_close(net.train()(*clips).logits, net.eval()(*clips).logits)


@pytest.mark.slow
def test_it_exports(net: TokenTagger, clips: tuple[Tensor, Tensor]):
    net.eval()
    exported = torch.export.export(net, clips).module()
    torch.testing.assert_close(exported(*clips).embedding, net(*clips).embedding, atol=1e-5, rtol=1e-4)


def test_impossible_sizes_are_refused():
    with pytest.raises(ValueError, match="vectors=0: give at least 1"):
        token_tagger(sample_rate=8000, classes=5, vectors=0)
    with pytest.raises(ValueError, match="width=10 is no multiple of 8, twice the 4 heads"):
        token_tagger(sample_rate=8000, classes=5, width=10)
