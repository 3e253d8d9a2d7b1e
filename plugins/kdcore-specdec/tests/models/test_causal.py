from __future__ import annotations

import pytest
import torch
from made import llama
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from kdcore_specdec.models.causal import CausalLM, restarting_positions

SEGMENT = torch.tensor([[1, 1, 1, 2, 2, 3, 0, 0], [1, 1, 1, 1, 1, 1, 1, 1]])
IDS = torch.randint(40, (2, 8), generator=torch.Generator().manual_seed(0))


def test_it_says_what_transformers_says() -> None:
    model = llama()
    found = model(IDS)
    with torch.no_grad():
        theirs = model.lm(IDS, output_hidden_states=True)
    torch.testing.assert_close(found.logits, theirs.logits)
    torch.testing.assert_close(found.logits, found.hidden @ model.head.T)
    torch.testing.assert_close(found.hidden, theirs.hidden_states[-1])
    assert found.past is None
    assert found.layers == {}
    assert model(IDS, logits=False).logits is None


def test_positions_restart_with_each_document() -> None:
    assert restarting_positions(SEGMENT).tolist() == [[0, 1, 2, 0, 1, 0, 0, 1], [0, 1, 2, 3, 4, 5, 6, 7]]


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_documents_of_a_row_do_not_see_each_other(kind: str) -> None:
    model = llama() if kind == "llama" else gpt2()
    packed = model(IDS, segment=SEGMENT).logits
    for row, (start, end) in ((0, (0, 3)), (0, (3, 5)), (0, (5, 6)), (1, (0, 8))):
        alone = model(IDS[row : row + 1, start:end]).logits
        torch.testing.assert_close(packed[row : row + 1, start:end], alone, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(packed[0, 3:5], model(IDS).logits[0, 3:5], atol=1e-2)


def gpt2() -> CausalLM:
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=40,
        n_positions=16,
        n_embd=16,
        n_layer=2,
        n_head=2,
        bos_token_id=0,
        eos_token_id=0,
        initializer_range=0.3,
    )
    return CausalLM(GPT2LMHeadModel(config)).eval()


def test_hidden_states_of_layers_by_index_and_from_the_end() -> None:
    model = llama(layers=3)
    found = model(IDS, layers=(0, 2, -2, 3)).layers
    assert not any(layer._forward_hooks for layer in model.lm.model.layers)
    with torch.no_grad():
        theirs = model.lm(IDS, output_hidden_states=True).hidden_states
    torch.testing.assert_close(found[0], theirs[1])
    torch.testing.assert_close(found[-2], theirs[2])
    torch.testing.assert_close(found[3], theirs[3])  # after the final norm
    torch.testing.assert_close(model.lm.model.norm(found[2]), found[3])  # before it


def test_a_layer_that_is_not_there() -> None:
    with pytest.raises(ValueError, match="layer 4 is wanted, and the model has 3: give 0 to 2, or count from the end"):
        llama(layers=3)(IDS, layers=(4,))
    model = llama(layers=2)
    with pytest.raises(ValueError, match="layer -3 is wanted"):
        model(IDS, layers=(0, -3))
    assert not any(layer._forward_hooks for layer in model.lm.model.layers)


def test_a_cache_continues_where_it_was() -> None:
    model = llama()
    whole = model(IDS).logits
    first = model(IDS[:, :5], use_cache=True)
    rest = model(IDS[:, 5:], past=first.past, use_cache=True)
    torch.testing.assert_close(torch.cat([first.logits, rest.logits], 1), whole, rtol=1e-4, atol=1e-5)


def test_gradients_reach_head_and_embedding_and_every_layer() -> None:
    model = llama().train()
    model(IDS, segment=SEGMENT).logits.square().sum().backward()
    assert all(p.grad is not None and bool(p.grad.any()) for p in model.parameters())


@pytest.mark.parametrize("tied", [True, False])
def test_what_it_is_made_of(tied: bool) -> None:
    model = llama(tied=tied, layers=3, context=32)
    assert (model.head is model.embedding.weight) == tied
    assert (model.vocabulary, model.depth, model.context) == (40, 3, 32)
    assert model.head.shape == (40, 16)


class Capped(LlamaForCausalLM):  # type: ignore[misc]
    def forward(self, *args: object, **keywords: object) -> object:
        found = super().forward(*args, **keywords)
        found.logits = 2 * found.logits.tanh()
        return found


def test_logits_that_the_head_alone_does_not_make() -> None:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=40,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        initializer_range=0.9,
    )
    CausalLM(LlamaForCausalLM(config))
    with pytest.raises(ValueError, match="the logits of Capped are not its last hidden state times its head"):
        CausalLM(Capped(config))


class Headless(LlamaForCausalLM):  # type: ignore[misc]
    def get_output_embeddings(self) -> Tensor | None:
        return None


def test_no_head() -> None:
    config = LlamaConfig(
        vocab_size=40, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2
    )
    with pytest.raises(ValueError, match="Headless has no output head: give a causal language model"):
        CausalLM(Headless(config))


def test_the_mode_is_left_as_it_was() -> None:
    inner = llama().lm
    assert CausalLM(inner.train()).lm.training
    assert not CausalLM(inner.eval()).lm.training


class Stackless(LlamaForCausalLM):  # type: ignore[misc]
    def named_modules(self, *args: object, **keywords: object) -> object:
        return iter([])


def test_no_list_of_layers() -> None:
    config = LlamaConfig(
        vocab_size=40, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2
    )
    with pytest.raises(ValueError, match="Stackless has no list of decoder layers: give a transformer that has one"):
        CausalLM(Stackless(config))


def test_the_layers_are_not_mistaken_for_a_longer_list_inside_them() -> None:
    inner = llama(layers=2).lm
    inner.model.layers[0].experts = nn.ModuleList(nn.Identity() for _ in range(5))
    assert CausalLM(inner).layers is inner.model.layers


def test_rotary_frequencies_stay_exact_in_half_precision() -> None:
    model = nn.Sequential(llama())
    rotary = model[0].lm.model.rotary_emb
    before = rotary.inv_freq.clone()
    model.to(torch.bfloat16)
    assert model[0].head.dtype == torch.bfloat16
    assert torch.equal(rotary.inv_freq, before)
    model.to("meta")
    assert rotary.inv_freq.device.type == "meta"
