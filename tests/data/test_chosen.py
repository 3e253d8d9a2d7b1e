"""Which samples of a split are trained on: those with a label."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from kdcore.data.arrays import Arrays, Columns
from kdcore.data.augment import Chain, Transformed
from kdcore.data.base import Data, Split, Treatment
from kdcore.data.chosen import READ_AT_ONCE, Chosen, ids_of, labelled_rows
from kdcore.data.mix import Mix
from kdcore.errors import RunError
from kdcore.signals import IGNORE, Batch

IDS = torch.tensor([30, 10, 20, 50, 40])
LABELS = torch.tensor([1, IGNORE, 0, IGNORE, 2])


def columns() -> Columns:
    return Columns({"id": IDS, "x": IDS / 10, "labels": LABELS})


class Single:
    """Samples one at a time, that do not tell which have a label."""

    def __len__(self) -> int:
        return 5

    def __getitem__(self, row: int) -> dict[str, Any]:
        return {"id": int(IDS[row]), "x": float(IDS[row]) / 10, "labels": int(LABELS[row])}


class Lists(Single):
    def __getitems__(self, index: Tensor) -> list[dict[str, Any]]:
        return [self[int(row)] for row in index]


class Whole(Single):
    """Batches that do not tell either."""

    def __getitems__(self, index: Tensor) -> Batch:
        return columns().__getitems__(index)


class Held(Data):
    """Data that gives some samples."""

    def __init__(self, samples: Any, *, labelled: bool = True, batch_size: int = 2) -> None:
        super().__init__(batch_size=batch_size)
        self._samples = samples
        self.treatment = Treatment(labelled=labelled)

    def split(self, name: Split) -> Any:
        return self._samples


@pytest.mark.parametrize("source", [columns(), Single(), Lists(), Whole()])
def test_rows_in_the_order_given(source: Any) -> None:
    chosen = Chosen(source, torch.tensor([3, 0, 4]))
    assert len(chosen) == 3
    assert chosen.ids.tolist() == [50, 30, 40]
    fetched = chosen.__getitems__([2, 0])
    batch = Data.collate(fetched) if isinstance(fetched, list) else fetched
    assert batch["id"].tolist() == [40, 50]
    assert batch["x"].tolist() == [4.0, 5.0]


@pytest.mark.parametrize("source", [columns(), Single(), Lists(), Whole()])
def test_samples_without_a_label_are_left_out(source: Any) -> None:
    assert labelled_rows(source, Data.without_labels).tolist() == [0, 2, 4]
    batches = list(Held(source).train_dataloader())
    assert sorted(torch.cat([batch["id"] for batch in batches]).tolist()) == [20, 30, 40]
    assert [len(batch["id"]) for batch in batches] == [2, 1]
    assert len(torch.cat([batch["id"] for batch in Held(source, labelled=False).train_dataloader()])) == 5


def test_validation_keeps_all_of_its_samples() -> None:
    assert len(torch.cat([batch["id"] for batch in Held(columns()).val_dataloader()])) == 5


def test_who_tells_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    source = columns()
    monkeypatch.setattr(Columns, "__getitems__", lambda self, index: pytest.fail("samples were read"))
    assert labelled_rows(source, Data.without_labels).tolist() == [0, 2, 4]
    assert len(Held(source).samples("train") or []) == 3


def test_a_mask_has_a_label_where_one_pixel_has() -> None:
    masks = torch.full((3, 2, 2), IGNORE)
    masks[1, 0, 1] = 4
    told = Columns({"id": torch.arange(3), "labels": masks})
    assert told.labelled.tolist() == [False, True, False]

    class Silent(Single):
        def __len__(self) -> int:
            return 3

        def __getitems__(self, index: Tensor) -> Batch:
            return told.__getitems__(index)

    assert labelled_rows(Silent(), Data.without_labels).tolist() == [1]


def test_columns_without_labels_have_none() -> None:
    assert not Columns({"id": IDS}).labelled.any()


class Boxes(Data):
    """Its labels are ragged, and hidden ones are not there at all."""

    @staticmethod
    def without_labels(batch: Batch) -> Batch:
        return {**batch, "boxes": batch["boxes"][:0]}


def test_the_data_says_what_a_label_is() -> None:
    samples = [{"id": row, "x": torch.zeros(2), "boxes": torch.ones(count, 4)} for row, count in enumerate((2, 0, 1))]
    assert labelled_rows(samples, Boxes.without_labels).tolist() == [0, 2]


def test_samples_are_read_a_few_at_a_time() -> None:
    read: list[int] = []

    class Many(Single):
        def __len__(self) -> int:
            return 2 * READ_AT_ONCE + 1

        def __getitems__(self, index: Tensor) -> Batch:
            read.append(len(index))
            return {"id": index, "labels": torch.where(index % 2 == 0, 1, IGNORE)}

    assert len(labelled_rows(Many(), Data.without_labels)) == READ_AT_ONCE + 1
    assert read == [READ_AT_ONCE, READ_AT_ONCE, 1]


def test_none_with_a_label_is_an_error() -> None:
    source = Columns({"id": IDS, "labels": torch.full((5,), IGNORE)})
    with pytest.raises(RunError, match=r"^`samples: labelled`: none of the 5 training samples has a label$"):
        Held(source).samples("train")


def test_what_a_table_lays_over_samples_counts() -> None:
    """Pseudo-labels are labels."""
    data = Held(columns())
    table = {"id": torch.tensor([10, 20, 50]), "labels": torch.tensor([7, 8, IGNORE])}
    data.treatment = Treatment(stage="mark", table=lambda: table, labelled=True)
    (batch,) = data.train_dataloader()
    assert dict(zip(batch["id"].tolist(), batch["labels"].tolist(), strict=True)) == {10: 7, 20: 8}


def test_of_a_mixture_the_labelled_half(tmp_path: Path) -> None:
    for name, count in (("few", 6), ("many", 12)):
        split = np.array(["train"] * (count - 2) + ["val", "test"])
        np.savez(tmp_path / f"{name}.npz", x=np.ones((count, 3)), y=np.arange(count) % 2, split=split)
    mixed = Mix(labelled=Arrays(path=tmp_path / "few.npz", labels=2), unlabelled=Arrays(path=tmp_path / "many.npz"))
    mixed.treatment = Treatment(labelled=True)
    (batch,) = mixed.train_dataloader()
    assert (batch["labels"] >= 0).all()
    assert len(batch["labels"]) == 2


def test_ids_of_what_is_transformed_are_known_without_reading_it(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = Transformed(columns(), seed=0, chain=Chain({}), views={}, collate=Data.collate)
    monkeypatch.setattr(Columns, "__getitems__", lambda self, index: pytest.fail("samples were read"))
    assert ids_of(shown).tolist() == IDS.tolist()
