from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from kdcore_graph.models.mlp import MLP


def test_by_hand() -> None:
    net = MLP(classes=2, features=3, width=4)
    x = torch.randn(5, 3)
    first, head = net.body[0][0], net.head  # type: ignore[index]
    hidden = (x @ first.weight.T + first.bias).relu()
    found = net(x)
    assert torch.allclose(found["hidden"], hidden)
    assert torch.allclose(found["logits"], hidden @ head.weight.T + head.bias)


@pytest.mark.parametrize(
    ("norm", "kind"), [("none", torch.nn.Identity), ("batch", torch.nn.BatchNorm1d), ("layer", torch.nn.LayerNorm)]
)
def test_norms(norm: str, kind: type) -> None:
    net = MLP(classes=2, features=3, width=4, layers=3, norm=norm)  # type: ignore[arg-type]
    assert [type(block[1]) for block in net.body] == [kind, kind]  # type: ignore[index]


def test_one_layer_is_linear() -> None:
    net = MLP(classes=2, features=3, layers=1)
    assert torch.equal(net(torch.ones(1, 3))["logits"], net.head(torch.ones(1, 3)))


def test_positions_are_read_where_asked_for() -> None:
    with_them = MLP(classes=2, features=3, use_positions=True, positions=4, width=5)
    without = MLP(classes=2, features=3, positions=4, width=5)
    assert with_them.body[0][0].in_features == 7  # type: ignore[index]
    assert without.body[0][0].in_features == 3  # type: ignore[index]
    x, place = torch.randn(2, 3), torch.randn(2, 4)
    assert torch.allclose(with_them(x, place)["logits"], with_them(x.to_sparse_csr(), place)["logits"])
    assert not torch.equal(with_them(x, place)["logits"], with_them(x, place + 1)["logits"])


def test_scaling_is_inside_and_stored() -> None:
    net = MLP(classes=2, features=2, feature_mean=[1.0, 2.0], feature_std=[2.0, 4.0])
    assert net.scale(torch.tensor([[3.0, 10.0]])).tolist() == [[1.0, 2.0]]
    assert {"scale.mean", "scale.std"} <= set(net.state_dict())
    assert torch.allclose(net(torch.eye(2))["logits"], net(torch.eye(2).to_sparse_csr())["logits"])


def test_what_is_refused() -> None:
    with pytest.raises(ValueError, match="layers=0: give at least 1"):
        MLP(classes=2, features=3, layers=0)
    with pytest.raises(ValueError, match=r"dropout=1.0 is not in \[0, 1\)"):
        MLP(classes=2, features=3, dropout=1.0)
    with pytest.raises(ValueError, match=r"the data gives none: set `data.positions`"):
        MLP(classes=2, features=3, use_positions=True)
    with pytest.raises(ValueError, match="this net reads positions, and the batch holds none"):
        MLP(classes=2, features=3, use_positions=True, positions=2)(torch.ones(1, 3))


def test_it_needs_no_pyg() -> None:
    script = "import sys, kdcore_graph.models.mlp; sys.exit('torch_geometric' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
