"""A graph from a table of nodes and a table of edges, in CSV or Parquet."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kdcore.errors import RunError, did_you_mean
from kdcore.signals import IGNORE
from kdcore_graph.data.source import Source
from kdcore_graph.graph import Graph, both_ways

Table = dict[str, list[Any]]
_PARTS = {"train": 0, "val": 1, "test": 2, "": -1}


class Tables(Source):
    """Nodes and edges as a database gives them: ids are text or numbers, labels are words, features are columns.

    Args:
        nodes: ``.csv`` or ``.parquet``, one row a node.
        edges: likewise, one row an edge.
        id: column of the nodes' ids, in the table of nodes.
        label: column of the labels; an empty cell is a node without one.
        features: columns that the nets see, in this order; all others but id, label, split and time when not given.
        split: column that says ``train``, ``val``, ``test`` or nothing (use it with ``split: given``).
        time: column to split by instead: the oldest 60 % train, the next 20 % validate, the newest are the test.
        source: column of the edges' first end.
        target: column of their second end.
        undirected: messages flow both ways along an edge.

    Raises:
        RunError: a file or column is missing, an id is there twice or not at all, a cell is no number.
    """

    def __init__(
        self,
        *,
        nodes: Path,
        edges: Path,
        id: str = "id",
        label: str = "label",
        features: list[str] | None = None,
        split: str | None = None,
        time: str | None = None,
        source: str = "source",
        target: str = "target",
        undirected: bool = True,
    ) -> None:
        super().__init__()
        if split is not None and time is not None:
            raise ValueError(f"split={split!r} and time={time!r}: the split comes from one of them")
        self.where = str(nodes)
        self._nodes, self._edges = Path(nodes), Path(edges)
        self._id, self._label, self._features = id, label, features
        self._split, self._time = split, time
        self._ends, self._undirected = (source, target), undirected

    def read(self) -> Graph:
        table = read_table(self._nodes)
        ids = [str(value) for value in _column(table, self._id, self._nodes)]
        rows = _numbered(ids, self._nodes)
        labels, names = _labels(_column(table, self._label, self._nodes))
        taken = {self._id, self._label, self._split, self._time}
        columns = tuple(self._features or (name for name in table if name not in taken))
        values = [_numbers(_column(table, name, self._nodes), name, ids, self._nodes) for name in columns]
        edges = self._read_edges(rows)
        return Graph(
            torch.tensor(values, dtype=torch.float32).T.contiguous(),
            both_ways(edges, len(ids)) if self._undirected else edges,
            labels,
            len(names),
            self._parts(table, ids),
            tuple(ids),
            columns,
            names,
        )

    def _read_edges(self, rows: dict[str, int]) -> Tensor:
        table = read_table(self._edges)
        ends = []
        for name in self._ends:
            found = [str(value) for value in _column(table, name, self._edges)]
            unknown = next((at for at, value in enumerate(found) if value not in rows), None)
            if unknown is not None:
                raise RunError(
                    f"{self._edges}: row {unknown + 1} has `{found[unknown]}` as its {name}, and {self._nodes} has no "
                    "such node"
                )
            ends.append([rows[value] for value in found])
        return torch.tensor(ends, dtype=torch.int64)

    def _parts(self, table: Table, ids: list[str]) -> Tensor | None:
        if self._split is not None:
            words = ["" if value is None else str(value) for value in _column(table, self._split, self._nodes)]
            wrong = next((at for at, word in enumerate(words) if word not in _PARTS), None)
            if wrong is not None:
                raise RunError(
                    f"{self._nodes}: node `{ids[wrong]}` has `{words[wrong]}` in the column `{self._split}`: write "
                    "train, val, test or nothing"
                )
            return torch.tensor([_PARTS[word] for word in words], dtype=torch.int8)
        if self._time is None:
            return None
        when = _times(_column(table, self._time, self._nodes))
        order = sorted(range(len(when)), key=when.__getitem__)  # stable: equal times keep the table's order
        split = torch.empty(len(when), dtype=torch.int8)
        for rank, at in enumerate(order):
            split[at] = 0 if rank < 0.6 * len(order) else 1 if rank < 0.8 * len(order) else 2
        return split


def read_table(path: Path) -> Table:
    """A table as columns of equal length, by name.

    Raises:
        RunError: no such file, another format, a damaged file, or a library that is missing.
    """
    if not path.is_file():
        raise RunError(f"{path}: there is no such file")
    if path.suffix == ".csv":
        return _read_csv(path)
    if path.suffix != ".parquet":
        raise RunError(f"{path}: a table is `.csv` or `.parquet`")
    try:
        from pyarrow import ArrowException, parquet
    except ImportError as error:
        raise RunError(f"{path}: reading Parquet needs pyarrow: pip install kdcore-graph[parquet]") from error
    try:
        table: Table = parquet.read_table(path).to_pydict()
    except ArrowException as error:
        raise RunError(f"{path} is no Parquet file: {error}") from error
    return table


def _read_csv(path: Path) -> Table:
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    if not rows:
        raise RunError(f"{path} is empty: the first line names the columns")
    uneven = next((at for at, row in enumerate(rows) if len(row) != len(rows[0])), None)
    if uneven is not None:
        raise RunError(f"{path}: line {uneven + 1} has {len(rows[uneven])} cells, the first line has {len(rows[0])}")
    return {name: [row[at] for row in rows[1:]] for at, name in enumerate(rows[0])}


def _column(table: Table, name: str, path: Path) -> list[Any]:
    if name not in table:
        raise RunError(f"{path} has no column `{name}`: {did_you_mean(name, table)}")
    return table[name]


def _numbered(ids: list[str], path: Path) -> dict[str, int]:
    rows: dict[str, int] = {}
    for row, name in enumerate(ids):
        if name in rows:
            raise RunError(f"{path}: the id `{name}` is in rows {rows[name] + 1} and {row + 1}")
        rows[name] = row
    return rows


def _labels(values: list[Any]) -> tuple[Tensor, tuple[str, ...]]:
    """Numbers by the alphabetical order of the words, or by size where all of them are whole numbers."""
    words = ["" if value is None else str(value) for value in values]
    present = set(words) - {""}
    names = sorted(present, key=int) if all(word.isdigit() for word in present) else sorted(present)
    number = {name: at for at, name in enumerate(names)} | {"": IGNORE}
    return torch.tensor([number[word] for word in words], dtype=torch.int64), tuple(names)


def _times(values: list[Any]) -> list[Any]:
    """As numbers where all of them are some; else as they are: ISO dates sort as text."""
    try:
        return [float(value) for value in values]
    except (TypeError, ValueError):
        return values


def _numbers(values: list[Any], column: str, ids: list[str], path: Path) -> list[float]:
    numbers = []
    for row, value in enumerate(values):
        try:
            numbers.append(float(value))
        except (TypeError, ValueError):
            raise RunError(
                f"{path}: node `{ids[row]}` has `{'' if value is None else value}` in the column `{column}`, which is "
                "no number: list the columns to use under `features`"
            ) from None
    return numbers
