"""A draft as a transformers folder: it answers the same, and `generate` drafts with it."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch
from made import llama, noisy
from transformers import AutoModelForCausalLM, GenerationConfig

from kdcore.errors import RunError
from kdcore_specdec import exporters
from kdcore_specdec.data.corpus import Corpus

IDS = torch.tensor([[1, 5, 3, 7], [2, 2, 9, 0]])


class Deployed(torch.nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model


class Text(Corpus):
    """A corpus with a tokenizer of one file."""

    def __init__(self):
        def save(folder):
            folder.mkdir(parents=True)
            (folder / "tokenizer.json").write_text("{}")

        self.tokenizer = SimpleNamespace(end=3, pad=4, save=save)


@pytest.mark.parametrize("tied", [False, True])
def test_the_folder_answers_as_the_model(tmp_path, tied):
    model = llama(tied=tied)
    files = exporters.transformers(Deployed(model), (IDS,), tmp_path, data=Text())
    names = {path.name for path in files}
    assert names == {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json"}
    assert {path.parent for path in files} == {tmp_path / "transformers"}
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "transformers").eval()
    assert torch.allclose(again(IDS).logits, model(IDS).logits, atol=1e-5)
    settings = json.loads((tmp_path / "transformers" / "generation_config.json").read_text())
    assert (settings["eos_token_id"], settings["pad_token_id"]) == (3, 4)


def test_generate_drafts_with_it(tmp_path):
    target = llama(seed=0)
    exporters.transformers(Deployed(noisy(target)), (IDS,), tmp_path)
    draft = AutoModelForCausalLM.from_pretrained(tmp_path / "transformers").eval()
    calls = []
    draft.register_forward_hook(lambda *_: calls.append(1))
    target.lm.generation_config = GenerationConfig(do_sample=False, max_new_tokens=12, pad_token_id=0)
    alone = target.lm.generate(IDS[:1])
    assert torch.equal(target.lm.generate(IDS[:1], assistant_model=draft), alone)
    assert len(calls) > 3
    assert alone.shape == (1, 16)


def test_an_older_folder_is_replaced(tmp_path):
    (tmp_path / "transformers").mkdir()
    (tmp_path / "transformers" / "leftover.bin").write_text("old")
    exporters.transformers(Deployed(llama()), (IDS,), tmp_path)
    assert not (tmp_path / "transformers" / "leftover.bin").exists()


def test_a_model_from_a_quantised_file_is_saved_plainly(tmp_path):
    model = llama()
    model.lm.config.quantization_config = {"quant_method": "gguf"}
    exporters.transformers(Deployed(model), (IDS,), tmp_path)
    assert "quantization_config" not in json.loads((tmp_path / "transformers" / "config.json").read_text())
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "transformers").eval()
    assert torch.allclose(again(IDS).logits, model(IDS).logits, atol=1e-5)
    assert model.lm.config.quantization_config == {"quant_method": "gguf"}


def test_half_precision_stays_half(tmp_path):
    model = llama()
    for parameter in model.parameters():  # as transformers loads it: the rotary frequencies stay float32
        parameter.data = parameter.data.bfloat16()
    exporters.transformers(Deployed(model), (IDS,), tmp_path)
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "transformers", dtype="auto").dtype == torch.bfloat16


def test_a_folder_that_answers_differently_is_removed(tmp_path, monkeypatch):
    model = llama()
    monkeypatch.setattr(exporters, "_plain", lambda lm: llama(seed=1).lm)
    with pytest.raises(RunError, match=r"differs from the model by [\d.]+ once it is loaded again; 0.0001 is allowed"):
        exporters.transformers(Deployed(model), (IDS,), tmp_path)
    assert not (tmp_path / "transformers").exists()


def test_a_feature_level_draft_is_refused(tmp_path):
    with pytest.raises(RunError, match=r"a Linear is no causal language model .* `--format specdec.speculators`"):
        exporters.transformers(Deployed(torch.nn.Linear(2, 2)), (IDS,), tmp_path)
