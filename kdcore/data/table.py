"""Samples as a table from an earlier stage selects and completes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from kdcore.data.chosen import Chosen, ids_of
from kdcore.data.loader import Batches, Samples
from kdcore.errors import RunError
from kdcore.signals import Batch


class Tabled(Chosen):
    """The samples whose ``id`` a table holds, in their own order, with the table's other columns laid over them.

    So a table of ids selects, one of ``labels`` gives pseudo-labels, and one of codes adds them.

    Args:
        samples: of one split.
        table: name -> tensor (M, ...), of which ``id`` int64 (M,) names each sample once.
        stage: that wrote the table, for messages.

    Raises:
        RunError: the table has no good ``id``, or none of its samples is here.
    """

    def __init__(self, samples: Samples | Batches, table: Mapping[str, Tensor], stage: str) -> None:
        self._columns = {name: column for name, column in table.items() if name != "id"}
        ids, place = _checked(table, stage).sort()
        ours = ids_of(samples)
        found = torch.searchsorted(ids, ours).clamp(max=len(ids) - 1)
        super().__init__(samples, (ids[found] == ours).nonzero().flatten())
        self._places = place[found[self._rows]]
        if len(self) == 0:
            raise RunError(f"none of the {len(ids)} ids in the table of stage `{stage}` is one of the training samples")

    def __getitems__(self, index: Tensor | Sequence[int]) -> Batch | list[Any]:
        fetched, places = super().__getitems__(index), self._places[torch.as_tensor(index)]
        if isinstance(fetched, list):
            return self._completed(fetched, places)
        return {**fetched, **{name: column[places] for name, column in self._columns.items()}}

    def _completed(self, samples: list[Any], places: Tensor) -> list[Any]:
        return [
            {**sample, **{name: column[place] for name, column in self._columns.items()}}
            for sample, place in zip(samples, places.tolist(), strict=True)
        ]


def _checked(table: Mapping[str, Tensor], stage: str) -> Tensor:
    """Its ids.

    Raises:
        RunError: there are none, some twice, or a column of another length.
    """
    ids = table.get("id")
    if ids is None or ids.ndim != 1 or ids.is_floating_point():
        raise RunError(f"the table of stage `{stage}` has no column `id` of integers (it has: {', '.join(table)})")
    if len(ids) == 0:
        raise RunError(f"the table of stage `{stage}` is empty")
    if len(torch.unique(ids)) < len(ids):
        raise RunError(f"the table of stage `{stage}` holds an `id` twice")
    for name, column in table.items():
        if len(column) != len(ids):
            raise RunError(f"the table of stage `{stage}` has {len(ids)} ids and {len(column)} rows of `{name}`")
    return ids.long()
