"""Random transforms that replay: each draw is a pure function of (recipe seed, sample id, variant, name)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from kdcore.data.chosen import ids_of
from kdcore.data.loader import Batches, Samples, fetch
from kdcore.data.seeds import derive_seed, sample_seeds
from kdcore.errors import RunError
from kdcore.signals import Batch

Sample = dict[str, Any]
Transform = Callable[[Sample, int], Sample]
"""``(sample, seed) -> sample``: pure in both, and leaves the sample it is given as it was."""


@dataclass(frozen=True)
class Chain:
    """Transforms by name, applied in order; each draws from a seed of its own, so that none follows another.

    A name that is added or taken out does not change what the others draw.
    """

    transforms: Mapping[str, Transform]

    def __call__(self, sample: Sample, seed: int) -> Sample:
        """The sample after all of them.

        Raises:
            RunError: one fails, or returns no sample; with its name and the sample's id.
        """
        for name, transform in self.transforms.items():
            try:
                transformed = transform(sample, derive_seed(seed, name))
            except (TypeError, ValueError, RuntimeError, KeyError) as error:
                raise RunError(
                    f"the transform `{name}` fails on sample id {int(sample['id'])}: {type(error).__name__}: {error}"
                ) from error
            if not isinstance(transformed, dict):
                raise RunError(f"the transform `{name}` returned a {type(transformed).__name__}, not a sample (a dict)")
            sample = transformed
        return sample


class Transformed:
    """Training samples as the transforms show them, a batch at a time, with its ``seed`` and its ``views``.

    Row ``variant * len + row`` is draw number ``variant`` of a row: the order says which draw it wants, so a worker
    needs to know no epoch. Views start from the transformed sample, so what moves pixels can be shared by all.

    Args:
        samples: of one split.
        seed: the recipe's.
        chain: what every view has in common.
        views: by name.
        collate: list of samples -> batch; sees samples as the data gives them, without ``seed`` and ``views``.
    """

    def __init__(
        self,
        samples: Samples | Batches,
        *,
        seed: int,
        chain: Chain,
        views: Mapping[str, Chain],
        collate: Callable[[list[Any]], Batch],
    ) -> None:
        self._samples = samples
        self._seed = seed
        self._chain = chain
        self._views = views
        self._collate = collate

    def __len__(self) -> int:
        return len(self._samples)

    @property
    def ids(self) -> Tensor:
        """Of every sample, int64 (N,)."""
        return ids_of(self._samples)

    def __getitems__(self, index: Tensor | Sequence[int]) -> Batch:
        """These rows, which are all of one variant."""
        rows = torch.as_tensor(index)
        variant, rows = int(rows[0]) // len(self), rows % len(self)
        samples = _fetch(self._samples, rows)
        ids = torch.tensor([int(sample["id"]) for sample in samples])
        seeds = sample_seeds(self._seed, ids, variant)
        shown = self._show(samples, self._chain, seeds)
        batch = {**self._collate(shown), "seed": seeds}
        if self._views:
            batch["views"] = {name: self._view(shown, name, chain, ids, variant) for name, chain in self._views.items()}
        return batch

    def _view(self, samples: list[Sample], name: str, chain: Chain, ids: Tensor, variant: int) -> Batch:
        seeds = sample_seeds(derive_seed(self._seed, "view", name), ids, variant)
        return {**self._collate(self._show(samples, chain, seeds)), "seed": seeds}

    @staticmethod
    def _show(samples: list[Sample], chain: Chain, seeds: Tensor) -> list[Sample]:
        return [chain(sample, seed) for sample, seed in zip(samples, seeds.tolist(), strict=True)]


def _fetch(samples: Samples | Batches, rows: Tensor) -> list[Sample]:
    """Single samples, also of data that gives whole batches."""
    fetched = fetch(samples, rows)
    if isinstance(fetched, list):
        return [dict(sample) for sample in fetched]
    return [{name: column[row] for name, column in fetched.items()} for row in range(len(rows))]
