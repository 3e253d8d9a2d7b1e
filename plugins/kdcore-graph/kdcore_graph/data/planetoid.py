"""Cora, Citeseer and PubMed in Planetoid's raw files."""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kdcore.errors import RunError
from kdcore.signals import IGNORE
from kdcore_graph.data.source import Source
from kdcore_graph.graph import Graph, both_ways

_ALLOWED = {
    ("collections", "defaultdict"): ("collections", "defaultdict"),
    ("__builtin__", "list"): ("builtins", "list"),
    ("builtins", "list"): ("builtins", "list"),
    ("_codecs", "encode"): ("_codecs", "encode"),
    ("numpy", "ndarray"): ("numpy", "ndarray"),
    ("numpy", "dtype"): ("numpy", "dtype"),
    ("numpy.core.multiarray", "_reconstruct"): ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"): ("numpy.core.multiarray", "_reconstruct"),
    ("scipy.sparse.csr", "csr_matrix"): ("scipy.sparse", "csr_matrix"),
    ("scipy.sparse._csr", "csr_matrix"): ("scipy.sparse", "csr_matrix"),
}
"""The only names a file may call for. The format is a pickle, which could otherwise run anything."""


class Planetoid(Source):
    """``ind.NAME.{x,tx,allx,y,ty,ally,graph,test.index}`` in a folder, with the public split (``split: given``).

    Args:
        path: the folder.
        name: ``cora``, ``citeseer`` or ``pubmed``, as in the files' names.
        largest_component: keep only the largest connected component.

    Raises:
        RunError: a file is missing, damaged, or asks for more than arrays.

    **Source**: Yang, Cohen and Salakhutdinov, Revisiting Semi-Supervised Learning with Graph Embeddings, 2016
    (arXiv 1603.08861).
    """

    def __init__(self, *, path: Path, name: str, largest_component: bool = False) -> None:
        super().__init__()
        self._path, self._name, self.only_largest = Path(path), name.lower(), largest_component
        self.where = f"{path} ({name})"

    def read(self) -> Graph:
        x, tx, allx, ty, ally, links = (self._load(part) for part in ("x", "tx", "allx", "ty", "ally", "graph"))
        tests = self._test_index()
        nodes = max(max(links), int(tests.max())) + 1
        features = np.zeros((nodes, allx.shape[1]), np.float32)
        targets = np.zeros((nodes, ally.shape[1]), np.float32)
        # the test nodes come in the order of test.index; citeseer has some that are in no file, which stay empty
        for everything, rest, into in ((allx, tx, features), (ally, ty, targets)):
            into[: everything.shape[0]] = _dense(everything)
            into[tests] = _dense(rest)
        labels = np.where(targets.sum(1) > 0, targets.argmax(1), IGNORE)
        pairs = [(source, target) for source, found in links.items() for target in found]
        split = torch.full((nodes,), -1, dtype=torch.int8)
        first = x.shape[0]
        split[:first], split[first : first + 500] = 0, 1
        split[tests] = 2
        edges = both_ways(torch.tensor(pairs).T, nodes)
        return Graph(torch.from_numpy(features), edges, torch.from_numpy(labels).long(), targets.shape[1], split)

    def _load(self, part: str) -> Any:
        path = self._path / f"ind.{self._name}.{part}"
        if not path.is_file():
            raise RunError(f"{path}: there is no such file")
        try:
            return _OnlyArrays(io.BytesIO(path.read_bytes()), encoding="latin1").load()
        except (pickle.UnpicklingError, EOFError, ValueError, TypeError) as error:
            raise RunError(f"{path} is not as Planetoid writes it: {error}") from error

    def _test_index(self) -> np.ndarray[Any, Any]:
        path = self._path / f"ind.{self._name}.test.index"
        if not path.is_file():
            raise RunError(f"{path}: there is no such file")
        return np.array([int(line) for line in path.read_text().split()])


class _OnlyArrays(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which is no array")
        return super().find_class(*_ALLOWED[module, name])


def _dense(matrix: Any) -> Any:
    return matrix.toarray() if hasattr(matrix, "toarray") else matrix
