"""A table of an earlier stage selects training samples and completes them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from kdcore.data.arrays import Columns
from kdcore.data.base import Data, Split, Treatment
from kdcore.data.table import Tabled
from kdcore.errors import RunError

IDS = torch.tensor([30, 10, 20, 50, 40])


def columns() -> Columns:
    return Columns({"id": IDS, "x": IDS / 10, "labels": torch.zeros(5, dtype=torch.int64)})


class Single:
    def __len__(self) -> int:
        return 5

    def __getitem__(self, row: int) -> dict[str, Any]:
        return {"id": int(IDS[row]), "x": float(IDS[row]) / 10, "labels": 0}


class Lists(Single):
    def __getitems__(self, index: Tensor) -> list[dict[str, Any]]:
        return [self[int(row)] for row in index]


TABLE = {
    "id": torch.tensor([20, 99, 30]),
    "labels": torch.tensor([2, 9, 3]),
    "code": torch.tensor([[1, 2], [0, 0], [3, 4]]),
}


@pytest.mark.parametrize("source", [columns(), Single(), Lists()])
def test_samples_in_the_table_stay_in_their_order_with_its_columns_over_their_own(source: Any) -> None:
    tabled = Tabled(source, TABLE, "mark")
    assert len(tabled) == 2
    fetched = tabled.__getitems__([0, 1])
    batch = Data.collate(fetched) if isinstance(fetched, list) else fetched
    assert batch["id"].tolist() == [30, 20]
    assert batch["x"].tolist() == [3.0, 2.0]
    assert batch["labels"].tolist() == [3, 2]
    assert batch["code"].tolist() == [[3, 4], [1, 2]]
    (one,) = tabled.__getitems__([1])["id"].tolist() if isinstance(source, Columns) else [20]
    assert one == 20


def test_columns_are_not_copied_to_find_their_ids(monkeypatch: pytest.MonkeyPatch) -> None:
    columns = Columns({"id": IDS, "image": torch.zeros(len(IDS), 3)})
    monkeypatch.setattr(Columns, "__getitems__", lambda self, index: pytest.fail("samples were read"))
    assert len(Tabled(columns, {"id": IDS[:2]}, "mark")) == 2


def test_data_may_tell_its_ids_so_that_no_sample_is_read_for_them() -> None:
    class Told(Single):
        ids = IDS

        def __getitem__(self, row: int) -> dict[str, Any]:
            raise AssertionError("read")

    assert len(Tabled(Told(), TABLE, "mark")) == 2


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"labels": torch.zeros(3)}, r"the table of stage `mark` has no column `id` of integers \(it has: labels\)"),
        ({"id": torch.zeros(3)}, r"has no column `id` of integers \(it has: id\)"),
        ({"id": torch.zeros(0, dtype=torch.int64)}, r"the table of stage `mark` is empty"),
        ({"id": torch.tensor([1, 1])}, r"the table of stage `mark` holds an `id` twice"),
        (
            {"id": torch.tensor([10, 20]), "labels": torch.zeros(3)},
            r"the table of stage `mark` has 2 ids and 3 rows of `labels`",
        ),
        ({"id": torch.tensor([7])}, r"none of the 1 ids in the table of stage `mark` is one of the training samples"),
    ],
)
def test_a_table_that_is_no_good_is_refused(table: dict[str, Tensor], message: str) -> None:
    with pytest.raises(RunError, match=message):
        Tabled(columns(), table, "mark")


class Numbers(Data):
    def split(self, name: Split) -> Columns | None:
        return columns()


def test_only_training_samples_are_selected_and_the_table_is_asked_for_then() -> None:
    asked: list[int] = []

    def table() -> dict[str, Tensor]:
        asked.append(1)
        return TABLE

    data = Numbers(batch_size=5)
    data.treatment = Treatment(stage="mark", table=table)
    assert [batch["id"].tolist() for batch in data.val_dataloader()] == [IDS.tolist()]
    assert asked == []
    (batch,) = data.train_dataloader()
    assert sorted(batch["id"].tolist()) == [20, 30]
    assert asked == [1]
