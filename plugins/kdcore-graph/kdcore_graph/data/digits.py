"""A graph over the 1797 handwritten digits that scikit-learn carries: nothing to download."""

from __future__ import annotations

import torch

from kdcore.errors import RunError
from kdcore_graph.data.source import Source
from kdcore_graph.graph import Graph, both_ways

NOISE_SEED = 1797
"""Fixes the noise of the features. Not the recipe's seed, so that all seeds see the same data."""


class Digits(Source):
    """Each digit is joined with those most like it, and its own pixels are hidden under noise.

    The graph knows what the features do not say clearly, as it is in citation networks: features are the 64 pixels in
    [0, 1] plus Gaussian noise, edges are made from the clean pixels.

    Args:
        neighbours: how many nearest neighbours (Euclidean) a digit is joined with, in both directions.
        noise: standard deviation of the noise.

    Raises:
        RunError: scikit-learn is not installed.

    **Source**: Alpaydin and Kaynak, Optical recognition of handwritten digits, UCI Machine Learning Repository, 1998
    (its test set, CC BY 4.0).
    """

    where = "digits"

    def __init__(self, *, neighbours: int = 8, noise: float = 0.6) -> None:
        super().__init__()
        if neighbours < 1 or noise < 0:
            raise ValueError(f"neighbours={neighbours} and noise={noise}: give at least 1, and at least 0")
        self._neighbours, self._noise = neighbours, noise

    def read(self) -> Graph:
        try:
            from sklearn.datasets import load_digits
        except ImportError as error:
            raise RunError("the data `graph.digits` needs scikit-learn: pip install kdcore-graph[digits]") from error
        pixels, labels = load_digits(return_X_y=True)
        clean = torch.from_numpy(pixels).float() / 16
        distance = torch.cdist(clean, clean).fill_diagonal_(torch.inf)
        nearest = distance.topk(self._neighbours, largest=False).indices
        target = torch.arange(len(clean)).repeat_interleave(self._neighbours)
        noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(NOISE_SEED))
        return Graph(
            clean + self._noise * noise,
            both_ways(torch.stack([nearest.flatten(), target]), len(clean)),
            torch.from_numpy(labels).long(),
            10,
            class_names=tuple("0123456789"),
        )
