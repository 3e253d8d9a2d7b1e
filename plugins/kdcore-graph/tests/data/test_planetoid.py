from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix

from kdcore.errors import RunError
from kdcore_graph.data.planetoid import Planetoid

RAW = Path(os.environ.get("KDCORE_DATA", "data")) / "graph/planetoid/Cora/raw"


def written(folder: Path, **changes: Any) -> Path:
    eye = np.eye(6, dtype=np.float32)
    onehot = np.eye(2, dtype=np.int32)[[0, 1, 0, 1, 0, 1]]
    parts: dict[str, Any] = {
        "x": csr_matrix(eye[:2]), "y": onehot[:2], "allx": csr_matrix(eye[:4]), "ally": onehot[:4],
        "tx": csr_matrix(eye[[5, 4]]), "ty": onehot[[5, 4]], "graph": {i: [(i + 1) % 6] for i in range(6)},
    }  # fmt: skip
    for part, value in {**parts, **changes}.items():
        (folder / f"ind.toy.{part}").write_bytes(pickle.dumps(value, protocol=2))
    (folder / "ind.toy.test.index").write_text("5\n4\n")
    return folder


def test_test_nodes_are_put_in_their_place(tmp_path: Path) -> None:
    graph = Planetoid(path=written(tmp_path), name="Toy").graph
    assert torch.equal(graph.features, torch.eye(6))
    assert graph.labels.tolist() == [0, 1, 0, 1, 0, 1]
    assert graph.split is not None
    assert graph.split.tolist() == [0, 0, 1, 1, 2, 2]
    assert graph.edges.shape == (2, 12)


def test_a_file_that_asks_for_code_is_refused(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return os.system, ("touch " + str(tmp_path / "owned"),)

    written(tmp_path, graph=Evil())
    with pytest.raises(
        RunError, match=r"ind.toy.graph is not as Planetoid writes it: it asks for posix.system, which is no array"
    ):
        Planetoid(path=tmp_path, name="toy").graph  # noqa: B018
    assert not (tmp_path / "owned").exists()


def test_missing_and_damaged_files(tmp_path: Path) -> None:
    written(tmp_path)
    (tmp_path / "ind.toy.tx").write_bytes(b"\x80\x02")
    with pytest.raises(RunError, match=r"ind.toy.tx is not as Planetoid writes it"):
        Planetoid(path=tmp_path, name="toy").graph  # noqa: B018
    (tmp_path / "ind.toy.x").unlink()
    with pytest.raises(RunError, match=r"ind.toy.x: there is no such file"):
        Planetoid(path=tmp_path, name="toy").graph  # noqa: B018


@pytest.mark.skipif(not RAW.is_dir(), reason="no Cora: set KDCORE_DATA")
def test_cora_is_as_published() -> None:
    graph = Planetoid(path=RAW, name="cora").graph
    assert (graph.nodes, graph.features.shape[1], graph.classes) == (2708, 1433, 7)
    assert graph.edges.shape[1] == 10556
    assert graph.split is not None
    assert [int((graph.split == part).sum()) for part in range(3)] == [140, 500, 1000]
    assert torch.bincount(graph.labels[graph.split == 0]).tolist() == [20] * 7
