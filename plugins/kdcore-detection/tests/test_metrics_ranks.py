"""Two processes that each see half of the pictures agree on what one sees of all."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from slow_ap import Picture
from test_metrics import random_pictures, update, value
from torch import distributed, multiprocessing

from kdcore_detection.metrics import AveragePrecision

CLASSES = 3


def ours(rank: int) -> list[Picture]:
    """As the loader divides them: every second picture. The other rank has most of what was found."""
    pictures = random_pictures(seed=4, n=15, classes=CLASSES)[rank::2]
    return [Picture(p.target, p.found[:1]) for p in pictures] if rank else pictures


def work(rank: int, folder: str) -> None:
    """Batches of two pictures, padded to other widths than those of the other process; then their common answer."""
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    metric = AveragePrecision(classes=CLASSES)
    pictures = ours(rank)
    for first in range(0, len(pictures), 2):
        found, batch = update(pictures[first : first + 2])
        batch["id"] = 2 * (batch["id"] + first) + rank
        metric.update(found, batch)
    torch.save(metric.compute(), f"{folder}/{rank}.pt")
    distributed.destroy_process_group()


@pytest.mark.slow
def test_ranks_are_joined(tmp_path: Path):
    multiprocessing.spawn(work, args=(str(tmp_path),), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    halves = ours(0), ours(1)
    whole = [halves[n % 2][n // 2] for n in range(15)]
    assert first.item() == pytest.approx(value(whole, classes=CLASSES), abs=1e-9)
    assert second.item() == first.item()
    assert abs(value(halves[0], classes=CLASSES) - first.item()) > 0.01  # half of them would say otherwise
