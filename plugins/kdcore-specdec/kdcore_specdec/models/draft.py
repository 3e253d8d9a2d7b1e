"""Fresh causal language models with the vocabulary of the data: drafts, or small targets to be trained first."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kdcore_specdec.models.causal import CausalLM
from kdcore_specdec.models.pretrained import check_context
from kdcore_specdec.sources import on_disk, quietly


def llama(
    *,
    vocabulary: int,
    layers: int = 2,
    width: int = 256,
    heads: int = 4,
    hidden: int | None = None,
    context: int = 2048,
    length: int = 0,
    tied: bool = True,
    options: dict[str, Any] | None = None,
) -> CausalLM:
    """A Llama with fresh weights: few layers make a fast draft.

    Args:
        vocabulary: how many tokens; filled in from the data.
        layers: number of decoder layers.
        width: of the hidden state.
        heads: of the attention; they share out ``width``.
        hidden: width of the feed-forward part; 8/3 of ``width`` by default, as in Llama, rounded up to a multiple of 8.
        context: the longest sequence it will be asked for.
        length: tokens in a row of the data; filled in.
        tied: whether the head is the embedding.
        options: further keywords of transformers' ``LlamaConfig``. ``initializer_range`` is 1 / sqrt(``width``) by
            default: its own 0.02 is that of a width of 2500, and a deep narrow net hardly begins to learn with it.

    Raises:
        ValueError: sizes that do not fit together, or an option that ``LlamaConfig`` does not know.
    """
    if min(layers, width, heads, vocabulary) < 1 or width % heads or (width // heads) % 2:
        raise ValueError(
            f"layers={layers}, width={width}, heads={heads}: give at least one layer, and a width that the heads share "
            "out in even parts"
        )
    from transformers import LlamaConfig, LlamaForCausalLM

    given = dict(options or {})
    config = LlamaConfig(
        vocab_size=vocabulary,
        num_hidden_layers=layers,
        hidden_size=width,
        num_attention_heads=heads,
        num_key_value_heads=given.pop("num_key_value_heads", heads),
        intermediate_size=hidden or 8 * (-(-width // 3)),
        max_position_embeddings=context,
        tie_word_embeddings=tied,
        **{"bos_token_id": None, "eos_token_id": None, "initializer_range": width**-0.5, **_known(LlamaConfig, given)},
    )
    check_context("the model", config, length)
    return CausalLM(LlamaForCausalLM(config))


def from_config(*, config: Path, vocabulary: int, length: int = 0, options: dict[str, Any] | None = None) -> CausalLM:
    """Any architecture of transformers with fresh weights, from its configuration.

    Args:
        config: a folder with a ``config.json`` (a target's own, made smaller by ``options``), or a ``.gguf`` file.
        vocabulary: how many tokens, whatever the configuration says; filled in from the data.
        length: tokens in a row of the data; filled in.
        options: what differs from that configuration, such as ``num_hidden_layers: 2``.

    Raises:
        RunError: there is no configuration.
        ValueError: it does not make a causal language model, or does not know an option.
    """
    from transformers import AutoModelForCausalLM

    source = on_disk(Path(config))
    made = source.config()
    if hasattr(made, "quantization_config"):
        del made.quantization_config
    made.update({**_known(type(made), options or {}, made), "vocab_size": vocabulary, "dtype": "float32"})
    check_context(str(source), made, length)
    with quietly():
        return CausalLM(AutoModelForCausalLM.from_config(made))


def _known(kind: type, options: dict[str, Any], instance: Any = None) -> dict[str, Any]:
    """Options that the configuration knows; transformers takes any, and ignores those that mean nothing to it."""
    from kdcore.errors import did_you_mean

    known = vars(kind() if instance is None else instance)
    for name in options:
        if name not in known and not hasattr(kind, name):
            raise ValueError(
                f"options.{name}: {kind.__name__} knows no such setting; {did_you_mean(name, list(known))}"
            )
    return options
