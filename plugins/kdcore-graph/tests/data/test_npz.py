from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array

from kdcore.errors import RunError
from kdcore_graph.data.npz import Npz

X = np.array([[1.0, 0.0, 2.0], [0.0, 0.0, 0.0], [0.0, 3.0, 0.0]], np.float32)


def benchmark(**changes: Any) -> dict[str, Any]:
    adjacency = csr_array(np.array([[0, 1, 0], [0, 0, 1], [0, 0, 0]], np.float32))
    attributes = csr_array(X)
    arrays: dict[str, Any] = {"labels": np.array([0, 1, 1], np.int8)}
    for name, matrix in (("adj", adjacency), ("attr", attributes)):
        arrays |= {
            f"{name}_data": matrix.data, f"{name}_indices": matrix.indices, f"{name}_indptr": matrix.indptr,
            f"{name}_shape": np.array(matrix.shape),
        }  # fmt: skip
    return {name: value for name, value in {**arrays, **changes}.items() if value is not None}


def edge_list(**changes: Any) -> dict[str, Any]:
    arrays = {"edges": np.array([[0, 1], [1, 2]], np.int32), "x": X, "y": np.array([0, 1, 1], np.uint8)}
    return {name: value for name, value in {**arrays, **changes}.items() if value is not None}


def written(folder: Path, arrays: dict[str, Any]) -> Path:
    path = folder / "g.npz"
    np.savez(path, **arrays)
    return path


@pytest.mark.parametrize("layout", [benchmark, edge_list])
def test_both_layouts(tmp_path: Path, layout: Any) -> None:
    graph = Npz(path=written(tmp_path, layout())).graph
    assert torch.equal(graph.features, torch.from_numpy(X))
    assert graph.edges.tolist() == [[1, 0, 2, 1], [0, 1, 1, 2]]
    assert graph.labels.tolist() == [0, 1, 1]
    assert graph.classes == 2


def test_dense_attributes_names_and_a_split(tmp_path: Path) -> None:
    arrays = benchmark(attr_matrix=X, class_names=np.array(["cat", "dog"]), split=np.array([0, 1, 2]))
    arrays = {name: value for name, value in arrays.items() if not name.startswith("attr_") or name == "attr_matrix"}
    graph = Npz(path=written(tmp_path, arrays)).graph
    assert torch.equal(graph.features, torch.from_numpy(X))
    assert graph.class_names == ("cat", "dog")
    assert graph.split is not None
    assert graph.split.tolist() == [0, 1, 2]


def test_the_largest_component(tmp_path: Path) -> None:
    path = written(tmp_path, edge_list(edges=np.array([[1, 2]])))
    assert Npz(path=path, largest_component=True).graph.nodes == 2
    assert Npz(path=path).graph.nodes == 3


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (edge_list(y=None), "lacks the array `y`, or it holds Python objects (there are: edges, x)"),
        (edge_list(x=None), "lacks the array `x_data`, or it holds Python objects (there are: edges, y)"),
        (edge_list(edges=np.array([[0, 7]])), "edge 0 names node 7, and nodes are numbered 0 to 2 (1 such edges)"),
        (edge_list(edges=np.array([0, 1])), "`edges` has the type int64 and the shape (2,): give integers (E, 2)"),
        (edge_list(y=np.array([0.5, 1, 1])), "`y` has the type float64 and the shape (3,): give integers (N,)"),
        (edge_list(edges=np.empty((0, 2), int)), "the graph has 3 nodes and no edges: a GNN would see each node alone"),
        (edge_list(x=X * np.nan), "the features hold NaN or infinity in 3 of 3 nodes, first column 0 of node 0:"),
        (benchmark(adj_indptr=np.array([0, 1, 2, 5])), "`adj_indptr` promises 5 edges, `adj_indices` holds 2"),
        (benchmark(attr_indices=np.array([9, 9, 9])), "`attr_*` is no CSR matrix:"),
    ],
)
def test_what_is_refused(tmp_path: Path, arrays: dict[str, Any], message: str) -> None:
    path = written(tmp_path, arrays)
    with pytest.raises(RunError) as caught:
        Npz(path=path).graph  # noqa: B018
    assert str(caught.value).startswith(str(path))
    assert message in str(caught.value)


def test_pickles_are_not_read(tmp_path: Path) -> None:
    path = written(tmp_path, edge_list(y=np.array([{}, {}, {}], object)))
    with pytest.raises(RunError, match="lacks the array `y`, or it holds Python objects"):
        Npz(path=path).graph  # noqa: B018


def test_files_that_are_no_archive(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="there is no such file"):
        Npz(path=tmp_path / "none.npz").graph  # noqa: B018
    (tmp_path / "text.npz").write_text("hello")
    with pytest.raises(RunError, match="is not a NumPy archive"):
        Npz(path=tmp_path / "text.npz").graph  # noqa: B018
    np.save(tmp_path / "bare.npy", X)
    with pytest.raises(RunError, match="holds one bare array, not the arrays of a graph"):
        Npz(path=tmp_path / "bare.npy").graph  # noqa: B018


def test_an_array_that_is_damaged(tmp_path: Path) -> None:
    path = written(tmp_path, edge_list())
    content = bytearray(path.read_bytes())
    place = content.find(b"\x93NUMPY") + 100  # inside the first array, which the archive's checksum covers
    content[place : place + 40] = b"\xff" * 40
    path.write_bytes(content)
    with pytest.raises(RunError, match=r"npz: `\w+` is damaged: "):
        Npz(path=path).graph  # noqa: B018
