"""What the losses over edges share."""

from __future__ import annotations

import torch
from torch import Tensor

from kdcore.losses.base import Total
from kdcore.signals import Batch


def edges_of(batch: Batch, loss: str) -> Tensor:
    """The batch's edges, int64 (2, E), among its rows.

    Raises:
        KeyError: it has none.
    """
    if "edges" not in batch:
        raise KeyError(
            f"{loss} compares nodes with their neighbours, and this batch holds no `edges`: leave out "
            "`data.batch_size`, so that a batch is the whole graph, or add `data.fanout`"
        )
    edges: Tensor = batch["edges"]
    return edges


def counted(terms: Tensor) -> Total:
    """The total of one term each."""
    return Total(terms.sum(), torch.full((), terms.numel(), dtype=torch.int64, device=terms.device))
