"""An ordinary draft as a folder that transformers, and everything built on it, reads."""

from __future__ import annotations

import copy
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import nn

from kdcore.data.base import Data
from kdcore.errors import RunError
from kdcore.run.exporters import TOLERANCE, Example
from kdcore_specdec.data.corpus import Corpus
from kdcore_specdec.models.causal import CausalLM
from kdcore_specdec.sources import quietly


def transformers(
    module: nn.Module, example: Example, folder: Path, *, data: Data | None = None, tolerance: float = TOLERANCE
) -> list[Path]:
    """``transformers/``: configuration, weights and tokenizer, loaded again and compared with the model.

    ``AutoModelForCausalLM.from_pretrained`` reads it, and ``target.generate(..., assistant_model=draft)`` drafts with
    it. A tokenizer of bytes needs no file and is not written.

    Args:
        data: whose tokenizer is written beside the model; filled in by ``export``.
        tolerance: largest difference allowed on any logit.

    Raises:
        RunError: the model is no causal language model of transformers, or answers differently once loaded again.
    """
    model = getattr(module, "model", None)
    if not isinstance(model, CausalLM):
        raise RunError(
            f"a {type(model).__name__} is no causal language model of transformers: export a feature-level draft "
            "with `--format specdec.speculators`"
        )
    place = folder / "transformers"
    shutil.rmtree(place, ignore_errors=True)
    lm = _plain(model.lm)
    with quietly():
        if isinstance(data, Corpus):
            lm.generation_config.eos_token_id = data.tokenizer.end
            lm.generation_config.pad_token_id = data.tokenizer.pad
            data.tokenizer.save(place)
        lm.save_pretrained(place)
    _check(model, place, example, tolerance)
    return sorted(path for path in place.iterdir() if path.is_file())


def _plain(lm: Any) -> Any:
    """The model, or a copy where it came from a quantised file, which transformers refuses to save."""
    config = copy.deepcopy(lm.config)
    if getattr(config, "quantization_config", None) is None:
        return lm
    del config.quantization_config
    plain = type(lm)(config).to(lm.dtype)
    plain.load_state_dict(lm.state_dict())
    return plain


def _check(model: CausalLM, place: Path, example: Example, tolerance: float) -> None:
    from transformers import AutoModelForCausalLM

    with quietly(), torch.no_grad():
        again = AutoModelForCausalLM.from_pretrained(place, dtype=model.head.dtype).eval()
        ids = example[0].cpu()
        difference = float((again(ids).logits - model(ids).logits).abs().max())
    if not difference <= tolerance:  # NaN is not smaller than anything
        shutil.rmtree(place)
        raise RunError(
            f"{place} differs from the model by {difference:.3g} once it is loaded again; {tolerance:g} is allowed. "
            "The folder was removed"
        )
