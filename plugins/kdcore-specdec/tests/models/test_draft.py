from __future__ import annotations

from pathlib import Path

import pytest
import torch
from files import model_folder

from kdcore_specdec.models.draft import from_config, llama


def test_a_llama_of_the_vocabulary() -> None:
    model = llama(vocabulary=40, layers=3, width=24, heads=3, context=50)
    assert (model.vocabulary, model.depth, model.context) == (40, 3, 50)
    assert model.lm.config.intermediate_size == 64
    assert model.head is model.embedding.weight
    assert not torch.equal(model(torch.tensor([[1, 2]])).logits, model(torch.tensor([[2, 1]])).logits)


def test_options_of_the_configuration() -> None:
    model = llama(
        vocabulary=40, width=16, heads=4, hidden=10, tied=False, options={"num_key_value_heads": 2, "rms_norm_eps": 0.1}
    )
    config = model.lm.config
    assert (config.num_key_value_heads, config.rms_norm_eps, config.intermediate_size) == (2, 0.1, 10)
    assert model.head is not model.embedding.weight
    assert config.eos_token_id is None


@pytest.mark.parametrize("sizes", [{"layers": 0}, {"width": 10, "heads": 4}, {"width": 12, "heads": 4}])
def test_sizes_that_do_not_fit(sizes: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="give at least one layer, and a width that the heads share out in even parts"):
        llama(vocabulary=40, **sizes)


def test_an_option_that_means_nothing() -> None:
    with pytest.raises(
        ValueError, match=r"options.rms_norm: LlamaConfig knows no such setting; did you mean `rms_norm_"
    ):
        llama(vocabulary=40, options={"rms_norm": 0.1})


def test_rows_longer_than_the_context() -> None:
    assert llama(vocabulary=40, width=16, context=32, length=32).context == 32
    with pytest.raises(
        ValueError, match=r"the model sees 32 tokens at most, and the data's rows have 33: set `data.len"
    ):
        llama(vocabulary=40, width=16, context=32, length=33)


def test_a_smaller_one_of_a_configuration(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "target", vocabulary=40, layers=3)
    model = from_config(config=folder, vocabulary=41, options={"num_hidden_layers": 1, "hidden_size": 8})
    assert (model.vocabulary, model.depth, model.head.shape[1]) == (41, 1, 8)
    assert model.head.dtype == torch.float32


def test_a_configuration_and_its_mistakes(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "target", vocabulary=40, context=32)
    with pytest.raises(ValueError, match=r"options.layers: LlamaConfig knows no such setting; known: "):
        from_config(config=folder, vocabulary=40, options={"layers": 1})
    with pytest.raises(ValueError, match=f"{folder} sees 32 tokens at most"):
        from_config(config=folder, vocabulary=40, length=64)
