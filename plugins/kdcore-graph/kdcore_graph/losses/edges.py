"""What the losses over edges share."""

from __future__ import annotations

from torch import Tensor

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
