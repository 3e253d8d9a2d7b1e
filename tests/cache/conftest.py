from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from kdcore.cache.codec import LENGTHS, Layout
from kdcore.cache.format import Manifest, Writer


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


FACTS = {"teacher": "abc", "topk": None}
SAMPLES, BATCH = 50, 8


def said(ids: Tensor) -> dict[str, Tensor]:
    """What a teacher says of samples: a pure function of their ids."""
    lengths = ids % 3 + 1
    packed = torch.cat([100.0 * sample + torch.arange(int(n)) for sample, n in zip(ids, lengths, strict=True)])
    return {
        "logits": ids.unsqueeze(1) + torch.arange(6.0).sin() * ids.unsqueeze(1).cos(),
        "tap.deep": ids.float().view(-1, 1, 1).expand(-1, 2, 3) / 7,
        "frames": packed.unsqueeze(1).repeat(1, 2),
        "frames" + LENGTHS: lengths,
    }


def manifest(samples: int = SAMPLES, facts: dict[str, Any] = FACTS, **how: Any) -> Manifest:
    signals = said(torch.arange(4))
    layouts = (
        Layout.of("logits", signals["logits"], stored=how.get("stored", "float32"), topk=how.get("topk")),
        Layout.of("tap.deep", signals["tap.deep"], stored="bfloat16"),
        Layout.of("frames", signals["frames"], stored="float32", packed=True),
    )
    return Manifest(dict(facts), layouts, samples)


def ids_of(samples: int = SAMPLES) -> Tensor:
    """Stable ids have gaps and no order."""
    return torch.randperm(10 * samples, generator=torch.Generator().manual_seed(1))[:samples]


def fill(writer: Writer, samples: int = SAMPLES, seeds: Tensor | None = None) -> None:
    ids = ids_of(samples)
    seeds = torch.zeros_like(ids) if seeds is None else seeds
    for start in range(writer.done, samples, BATCH):
        part = slice(start, start + BATCH)
        writer.append(ids[part], seeds[part], said(ids[part]))


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """A cache of 50 samples in several shards."""
    writer = Writer(tmp_path / "cache", manifest(), shard_bytes=1000)
    fill(writer)
    writer.finish()
    return tmp_path / "cache"
