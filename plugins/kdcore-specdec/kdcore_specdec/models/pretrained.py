"""Causal language models that somebody has trained: a folder, a GGUF file, or a name on the hub."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kdcore.errors import RunError
from kdcore_specdec.models.causal import CausalLM
from kdcore_specdec.sources import Source, first_line, on_disk, on_hub, quietly
from kdcore_specdec.tokenizers import load


def pretrained(*, pretrained: Path, vocabulary: int, length: int = 0, tokenizer_digest: str | None = None) -> CausalLM:
    """A causal language model as transformers has saved it, or a GGUF file, in float32 unless ``dtype`` says otherwise.

    Args:
        pretrained: a folder, or a ``.gguf`` file.
        vocabulary: of the data; filled in. The model must have exactly so many rows in its head.
        length: tokens in a row of the data; filled in.
        tokenizer_digest: of the data's tokenizer; filled in. The model's own must be equal.

    Raises:
        RunError: nothing that transformers can read is there.
        ValueError: the model does not suit the data.
    """
    return _made(on_disk(Path(pretrained)), vocabulary, length, tokenizer_digest)


def hub(*, pretrained: str, vocabulary: int, length: int = 0, tokenizer_digest: str | None = None) -> CausalLM:
    """A causal language model of the hub, in float32 unless ``dtype`` says otherwise.

    Args:
        pretrained: ``owner/name@revision``; without a revision the newest, which may be another tomorrow.
        vocabulary: of the data; filled in. The model must have exactly so many rows in its head.
        length: tokens in a row of the data; filled in.
        tokenizer_digest: of the data's tokenizer; filled in. The model's own must be equal.

    Raises:
        RunError: nothing that transformers can read is there.
        ValueError: the model does not suit the data.
    """
    return _made(on_hub(pretrained), vocabulary, length, tokenizer_digest)


def _made(source: Source, vocabulary: int, length: int, digest: str | None) -> CausalLM:
    """Everything is compared before the weights are read."""
    config = source.config()
    if config.vocab_size != vocabulary:
        raise ValueError(
            f"{source} has a vocabulary of {config.vocab_size}, the data one of {vocabulary}: a draft and its target "
            "must read the same tokens. Give the data this model's tokenizer (`data.tokenizer`), or choose another "
            "model"
        )
    own = load(source).digest
    if digest is not None and own != digest:
        raise ValueError(
            f"{source} has another tokenizer than the data ({own} and {digest}), although both have {vocabulary} "
            "tokens: it would read other words. Give the data this model's tokenizer (`data.tokenizer`)"
        )
    check_context(str(source), config, length)
    return CausalLM(_weights(source))


def check_context(who: str, config: Any, length: int) -> None:
    """
    Raises:
        ValueError: rows of the data are longer than what the model can see.
    """
    context = getattr(config, "max_position_embeddings", None)
    if context is not None and length > context:
        raise ValueError(
            f"{who} sees {context} tokens at most, and the data's rows have {length}: set `data.length` to {context} "
            "or less"
        )


def _weights(source: Source) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    with quietly():
        try:
            lm = AutoModelForCausalLM.from_pretrained(source.name, dtype=torch.float32, **source.options)
        except (OSError, ValueError, KeyError, ImportError) as error:
            raise RunError(f"{source}: transformers cannot load the model: {first_line(error)}") from error
        return _plain(lm) if source.gguf_file else lm


def _plain(lm: Any) -> Any:
    """What came out of a GGUF file is no longer quantised, but says it is, and then could not be saved."""
    config = lm.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    fresh = type(lm)(config)
    fresh.load_state_dict(lm.state_dict())
    return fresh
