"""Tiny drafts that read a tiny target, and what the target says."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kdcore_specdec.models.causal import CausalLM
from kdcore_specdec.models.eagle import Eagle3
from kdcore_specdec.models.falcon import Falcon
from kdcore_specdec.models.feature import FeatureDraft
from kdcore_specdec.models.fspad import FSPAD
from kdcore_specdec.models.medusa import Medusa

VOCABULARY, WIDTH = 40, 16
LAYERS = [0, 1, 2]


def batch(n: int = 2, t: int = 10, *, packed: bool = False, seed: int = 0) -> dict[str, Tensor]:
    """Tokens with labels; packed rows hold a document of 4, one of t - 6, and 2 tokens of padding."""
    ids = torch.randint(VOCABULARY, (n, t), generator=torch.Generator().manual_seed(seed))
    labels = torch.full_like(ids, -100)
    labels[:, :-1] = ids[:, 1:]
    made = {"input_ids": ids, "labels": labels}
    if packed:
        segment = torch.tensor([1] * 4 + [2] * (t - 6) + [0] * 2).expand(n, t).clone()
        ends = torch.cat([segment[:, 1:] != segment[:, :-1], torch.ones(n, 1, dtype=torch.bool)], 1)
        made |= {"segment": segment, "labels": labels.masked_fill(ends | (segment == 0), -100)}
    return made


def signals(target: CausalLM, made: dict[str, Tensor]) -> dict[str, Tensor]:
    """What the task gives of a target."""
    with torch.no_grad():
        out = target(made["input_ids"], segment=made.get("segment"), layers=tuple(LAYERS))
    given = {"hidden": out.hidden, "head": target.head, "embedding": target.embedding.weight, "logits": out.logits}
    return given | {f"layer.{i}": hidden for i, hidden in out.layers.items()}


def draft(kind: type[FeatureDraft], *, seed: int = 3, **keywords: Any) -> Any:
    """One of a kind, with random weights."""
    sizes: dict[type[FeatureDraft], dict[str, Any]] = {
        Eagle3: {"target_layers": LAYERS, "heads": 4, "kv_heads": 2, "steps": 3},
        FSPAD: {"heads": 4, "kv_heads": 2},
        Falcon: {"heads": 4, "kv_heads": 2, "block": 3},
        Medusa: {"heads": 3},
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = kind(**{"vocabulary": VOCABULARY, "width": WIDTH, **sizes[kind], **keywords})
        with torch.no_grad():
            for parameter in made.parameters():
                if parameter.requires_grad and not bool(parameter.any()):
                    parameter.normal_(std=0.1)
    return made


KINDS = (Eagle3, FSPAD, Falcon, Medusa)
