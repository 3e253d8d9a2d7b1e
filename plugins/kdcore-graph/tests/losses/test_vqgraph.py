from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from naive import kl

from kdcore_graph.losses.vqgraph import VQGraph, VQTokenizer, squared_distances


def signals(nodes: int = 6, codes: int = 4, width: int = 3) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    torch.manual_seed(0)
    codebook, theirs = torch.randn(codes, width), torch.randn(nodes, width)
    return {"hidden": torch.randn(nodes, width)}, {"codes": -squared_distances(theirs, codebook), "codebook": codebook}


def test_distances_by_hand() -> None:
    found = squared_distances(torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0, 0.0], [4.0, 6.0]]))
    assert found.tolist() == [[4.0, 25.0]]


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_it_is_the_slow_formula(temperature: float) -> None:
    student, teacher = signals()
    loss = VQGraph(temperature=temperature)
    loss.setup({"student": student, "teacher": teacher}, {}, None)  # type: ignore[arg-type]
    found = loss(student, teacher, {})
    total = 0.0
    for i in range(6):
        ours = [-float(((student["hidden"][i] - code) ** 2).sum()) for code in teacher["codebook"]]
        total += temperature**2 * kl(teacher["codes"][i].tolist(), ours, temperature)
    assert float(found.sum) == pytest.approx(total, rel=1e-4)
    assert int(found.count) == 6


def test_other_widths_are_joined_by_a_map_that_learns() -> None:
    student, teacher = {"hidden": torch.randn(6, 5, requires_grad=True)}, signals()[1]
    loss = VQGraph()
    loss.setup({"student": student, "teacher": teacher}, {}, None)  # type: ignore[arg-type]
    loss(student, teacher, {}).sum.backward()
    assert [tuple(p.shape) for p in loss.parameters()] == [(3, 5), (3,)]
    assert all(p.grad is not None for p in loss.parameters())


def test_the_mask_counts() -> None:
    student, teacher = signals()
    mask = torch.tensor([True, False, True, False, False, False])
    found = VQGraph()(student, teacher, {"mask": mask})
    alone = VQGraph()({"hidden": student["hidden"][mask]}, {**teacher, "codes": teacher["codes"][mask]}, {})
    assert float(found.sum) == pytest.approx(float(alone.sum), rel=1e-5)
    assert int(found.count) == 2


def tokenizer(**keys: Any) -> tuple[VQTokenizer, dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    torch.manual_seed(0)
    student = {"hidden": torch.randn(5, 3, requires_grad=True), "quantised": torch.randn(5, 3, requires_grad=True)}
    loss = VQTokenizer(**keys)
    loss.setup({"student": student}, {"features": 4}, None)  # type: ignore[arg-type]
    return loss, student, {"features": torch.randn(5, 4), "edges": torch.tensor([[0, 1, 2], [1, 2, 3]])}


def test_the_tokenizer_by_its_parts() -> None:
    loss, student, batch = tokenizer(commitment=0.5)
    found = loss(student, {}, batch)
    h, z = student["hidden"].detach(), student["quantised"].detach()
    assert float(found["codebook"].sum) == pytest.approx(float(((h - z) ** 2).mean(1).sum()), rel=1e-5)
    assert float(found["commitment"].sum) == pytest.approx(0.5 * float(((h - z) ** 2).mean(1).sum()), rel=1e-5)
    cosine = F.cosine_similarity(loss.to_features(z), batch["features"])
    assert float(found["features"].sum.detach()) == pytest.approx(float((1 - cosine).sum().detach()), rel=1e-5)
    assert {name: int(total.count) for name, total in found.items()} == {
        "features": 5, "edges": 6, "codebook": 5, "commitment": 5,
    }  # fmt: skip


def test_edges_are_told_by_cross_entropy() -> None:
    loss, student, batch = tokenizer()
    torch.manual_seed(3)
    found = loss(student, {}, batch)["edges"].sum.detach()
    torch.manual_seed(3)
    others = torch.randint(5, (2, 3))
    u = loss.to_edges(student["quantised"]).detach()
    expected = 0.0
    for pairs, label in ((batch["edges"], 1.0), (others, 0.0)):
        for a, b in pairs.T.tolist():
            expected += float(F.binary_cross_entropy_with_logits(u[a] @ u[b] / 3**0.5, torch.tensor(label)))
    assert float(found) == pytest.approx(expected, rel=1e-5)


def test_each_part_trains_what_it_should() -> None:
    loss, student, batch = tokenizer()
    found = loss(student, {}, batch)
    ends = (student["hidden"], student["quantised"])
    for name, wanted in (("codebook", (False, True)), ("commitment", (True, False)), ("features", (True, False))):
        gradients = torch.autograd.grad(found[name].sum, ends, allow_unused=True, retain_graph=True)
        assert tuple(g is not None and bool(g.abs().sum() > 0) for g in gradients) == wanted, name


def test_sparse_features_are_read() -> None:
    loss, student, batch = tokenizer()
    thin = {**batch, "features": batch["features"].to_sparse_csr()}
    assert float(loss(student, {}, thin)["features"].sum) == float(loss(student, {}, batch)["features"].sum)


def test_what_is_refused() -> None:
    with pytest.raises(ValueError, match=r"commitment=-1.0 is below 0"):
        VQTokenizer(commitment=-1.0)
    with pytest.raises(ValueError, match=r"temperature=0.0 is not above 0"):
        VQGraph(temperature=0.0)
    loss, student, batch = tokenizer()
    del batch["edges"]
    with pytest.raises(KeyError, match="vq_tokenizer compares nodes with their neighbours"):
        loss(student, {}, batch)
