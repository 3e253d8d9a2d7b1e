"""The 1797 real handwritten digits that scikit-learn carries: nothing to download."""

from __future__ import annotations

from functools import cached_property
from typing import ClassVar

import torch

from kdcore.data.arrays import SPLIT_SEED, Columns
from kdcore.data.base import Data, Split
from kdcore.data.seeds import derive_seed
from kdcore.data.splits import keep_labels, stratified_order
from kdcore.errors import RunError

SPLIT: dict[Split, int] = {"test": 500, "val": 297, "train": 1000}
"""Sizes of the splits, cut in this order from one fixed stratified order; no recipe's seed moves a digit."""


class Digits(Data):
    """8x8 grey images of the ten digits: ``image`` float32 (N, 1, 8, 8) in [0, 1], ``labels`` and ``id`` int64 (N,).

    1000 to train on, 297 for validation, 500 for the test, the classes in proportion. ``id`` is the row in
    scikit-learn's own order.

    Args:
        batch_size: samples in a batch, over all devices together.
        labels: keep only so many training labels, evenly over the classes and chosen by the recipe's seed; the other
            samples stay, with the label -100, for a teacher to speak about.

    Raises:
        RunError: scikit-learn is not installed.

    **Source**: Alpaydin and Kaynak, Optical recognition of handwritten digits, UCI Machine Learning Repository, 1998
    (its test set, CC BY 4.0).
    """

    fact_names: ClassVar[tuple[str, ...]] = ("classes", "channels", "image_height", "image_width", "features")

    def __init__(self, *, batch_size: int = 128, labels: int | None = None) -> None:
        super().__init__(batch_size=batch_size)
        self.facts = {"classes": 10, "channels": 1, "image_height": 8, "image_width": 8, "features": 64}
        self.class_names = tuple("0123456789")
        self._labels = labels

    def split(self, name: Split) -> Columns:
        columns = self._splits[name]
        if name == "train" and self._labels is not None:
            kept = keep_labels(columns.columns["labels"], self._labels, derive_seed(self.seed, "labels"))
            columns = Columns({**columns.columns, "labels": kept})
        return columns

    @cached_property
    def _splits(self) -> dict[Split, Columns]:
        try:
            from sklearn.datasets import load_digits  # takes a second to import
        except ImportError as error:
            raise RunError("the data `digits` needs scikit-learn: pip install kdcore[digits]") from error
        images, labels = load_digits(return_X_y=True)
        target = torch.from_numpy(labels).long()
        everything = Columns(
            {
                "image": torch.from_numpy(images).float().view(-1, 1, 8, 8) / 16,
                "labels": target,
                "id": torch.arange(len(target)),
            }
        )
        parts = torch.split(stratified_order(target, SPLIT_SEED), list(SPLIT.values()))
        return {name: everything.rows(part) for name, part in zip(SPLIT, parts, strict=True)}
