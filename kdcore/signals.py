"""The two dictionaries that travel through a step: a batch of data and a model's signals."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from torch import Tensor

Signals: TypeAlias = "dict[str, Tensor]"
"""What a model says about a batch: ``logits``, ``tap.<name>``, ... by name."""

Batch: TypeAlias = "dict[str, Any]"
"""What the data says: ``id``, the task's inputs, ``labels`` aligned with ``logits`` (-100 = none).

Optional are ``mask`` and ``weight``, aligned with ``labels``, and ``views``, batches by name.
"""

IGNORE = -100
"""The label of a position that has none (torch's own ``ignore_index``)."""


def select_view(batch: Batch, view: str | None) -> Batch:
    """The batch as one view shows it: ``batch["views"][view]`` laid over the batch itself.

    Raises:
        KeyError: the data gives no such view; the message lists those there are.
    """
    if view is None:
        return batch
    views: Mapping[str, Batch] = batch.get("views", {})
    if view not in views:
        known = ", ".join(sorted(views)) or "none"
        raise KeyError(f"the batch has no view `{view}` (views: {known})")
    return {**batch, **views[view]}
