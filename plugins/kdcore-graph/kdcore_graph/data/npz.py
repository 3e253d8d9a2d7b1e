"""Graphs in NumPy archives: the layout of GNN-benchmark and CPF, and plain edge lists."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kdcore.errors import RunError
from kdcore_graph.data.source import Source
from kdcore_graph.graph import Graph, both_ways

Arrays = dict[str, np.ndarray[Any, Any]]


class Npz(Source):
    """A ``.npz`` file in one of two layouts; never unpickled. Edges are taken as undirected, without self-loops.

    As GNN-benchmark and CPF have it: ``adj_data``, ``adj_indices``, ``adj_indptr``, ``adj_shape`` (CSR), ``attr_*``
    likewise or a dense ``attr_matrix``, and ``labels``. Or ``edges`` (E, 2), ``x_*`` (CSR) or a dense ``x``, and ``y``.
    Optional are ``class_names`` and ``split`` (0 train, 1 validation, 2 test, -1 none).

    Args:
        path: the file.
        largest_component: keep only the largest connected component, as GLNN does with the CPF data.

    Raises:
        RunError: the file is missing, damaged or does not hold what it should.
    """

    def __init__(self, *, path: Path, largest_component: bool = False) -> None:
        super().__init__()
        self.where, self.only_largest = str(path), largest_component
        self._path = Path(path)

    def read(self) -> Graph:
        arrays = _load(self._path)
        benchmark = "labels" in arrays
        labels = _column(arrays, "labels" if benchmark else "y", self.where)
        features = _matrix(arrays, ("attr", "attr_matrix") if benchmark else ("x", "x"), self.where)
        edges = _adjacency(arrays, self.where) if benchmark else _edge_list(arrays, self.where)
        in_range = bool(((edges >= 0) & (edges < len(features))).all())
        names = arrays.get("class_names")
        return Graph(
            features,
            both_ways(edges, len(features)) if in_range else edges,
            labels,
            int(labels.max()) + 1 if len(labels) else 0,
            split=torch.from_numpy(arrays["split"].astype(np.int8)) if "split" in arrays else None,
            class_names=None if names is None else tuple(str(name) for name in names),
        )


def _load(path: Path) -> Arrays:
    if not path.is_file():
        raise RunError(f"{path}: there is no such file")
    try:
        archive = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise RunError(f"{path} is not a NumPy archive") from error
    if not isinstance(archive, np.lib.npyio.NpzFile):
        raise RunError(f"{path} holds one bare array, not the arrays of a graph")
    arrays: Arrays = {}
    with archive:
        for name in archive.files:
            try:
                arrays[name] = archive[name]
            except ValueError:  # an array of Python objects is a pickle: never read, and reported when it is needed
                continue
            except (OSError, EOFError, zipfile.BadZipFile) as error:
                raise RunError(f"{path}: `{name}` is damaged: {error}") from error
    return arrays


def _need(arrays: Arrays, name: str, where: str) -> np.ndarray[Any, Any]:
    if name not in arrays:
        raise RunError(f"{where} lacks the array `{name}`, or it holds Python objects (there are: {', '.join(arrays)})")
    return arrays[name]


def _column(arrays: Arrays, name: str, where: str) -> Tensor:
    values = _need(arrays, name, where)
    if values.ndim != 1 or values.dtype.kind not in "ui":
        raise RunError(
            f"{where}: `{name}` has the type {values.dtype} and the shape {values.shape}: give integers (N,)"
        )
    return torch.from_numpy(values.astype(np.int64))


def _matrix(arrays: Arrays, names: tuple[str, str], where: str) -> Tensor:
    """Dense float32 (N, F) from the CSR arrays ``<first>_*``, or from the dense array ``<second>``."""
    from scipy.sparse import csr_array

    prefix, dense = names
    if dense in arrays:
        return torch.from_numpy(arrays[dense].astype(np.float32))
    data, indices, indptr, shape = (_need(arrays, f"{prefix}_{part}", where) for part in _CSR)
    try:
        matrix = csr_array((data.astype(np.float32), indices, indptr), shape=tuple(shape))
        matrix.check_format(full_check=True)  # or an index out of range is written beside the array
        return torch.from_numpy(matrix.toarray())
    except (ValueError, IndexError) as error:
        raise RunError(f"{where}: `{prefix}_*` is no CSR matrix: {error}") from error


_CSR = ("data", "indices", "indptr", "shape")


def _adjacency(arrays: Arrays, where: str) -> Tensor:
    indices, indptr = (_need(arrays, f"adj_{part}", where) for part in ("indices", "indptr"))
    rows = np.repeat(np.arange(len(indptr) - 1), np.diff(indptr))
    if len(rows) != len(indices):
        raise RunError(f"{where}: `adj_indptr` promises {len(rows)} edges, `adj_indices` holds {len(indices)}")
    return torch.from_numpy(np.stack([rows, indices]).astype(np.int64))


def _edge_list(arrays: Arrays, where: str) -> Tensor:
    edges = _need(arrays, "edges", where)
    if edges.ndim != 2 or edges.shape[1] != 2 or edges.dtype.kind not in "ui":
        raise RunError(f"{where}: `edges` has the type {edges.dtype} and the shape {edges.shape}: give integers (E, 2)")
    return torch.from_numpy(edges.astype(np.int64).T.copy())
