from __future__ import annotations

import pytest
import torch

from kdcore_graph.losses.nosmog import RepresentationalSimilarity, gram_distance


def made(student: int = 3, teacher: int = 4) -> RepresentationalSimilarity:
    torch.manual_seed(0)
    loss = RepresentationalSimilarity()
    loss.setup(
        {"student": {"hidden": torch.zeros(2, student)}, "teacher": {"hidden": torch.zeros(2, teacher)}}, {}, None
    )  # type: ignore[arg-type]
    return loss


def test_by_hand() -> None:
    ours, theirs = torch.tensor([[1.0], [2.0]]), torch.tensor([[0.0], [1.0]])
    # [[1, 2], [2, 4]] against [[0, 0], [0, 1]]
    assert float(gram_distance(ours, theirs)) == 1 + 4 + 4 + 9


def test_it_is_the_slow_formula() -> None:
    loss, student, teacher = made(), torch.randn(7, 3), torch.randn(7, 4)
    found = loss({"hidden": student}, {"hidden": teacher}, {})
    h = loss.map(student).relu().detach()
    expected = sum(float((h[i] @ h[j] - teacher[i] @ teacher[j]) ** 2) for i in range(7) for j in range(7)) / 49
    assert float((found.sum / found.count).detach()) == pytest.approx(expected, rel=1e-5)
    assert int(found.count) == 7


def test_masked_rows_do_not_count() -> None:
    loss, student, teacher = made(), torch.randn(5, 3), torch.randn(5, 4)
    mask = torch.tensor([True, False, True, True, False])
    whole = loss({"hidden": student[mask]}, {"hidden": teacher[mask]}, {})
    teacher[1] = float("nan")
    masked = loss({"hidden": student}, {"hidden": teacher}, {"mask": mask})
    assert float(masked.sum.detach()) == pytest.approx(float(whole.sum.detach()), rel=1e-5)
    assert int(masked.count) == 3


def test_gradients_reach_the_student_and_the_map() -> None:
    loss, student = made(), torch.randn(5, 3, requires_grad=True)
    loss({"hidden": student}, {"hidden": torch.randn(5, 4)}, {}).sum.backward()
    assert student.grad is not None
    assert student.grad.abs().sum() > 0
    assert all(p.grad is not None for p in loss.map.parameters())


def test_it_survives_half_precision_where_teacher_and_student_are_close() -> None:
    loss = made(4, 4)
    with torch.no_grad():
        loss.map.weight.copy_(torch.eye(4))
        loss.map.bias.zero_()
    hidden = 100 * torch.rand(50, 4)
    found = loss({"hidden": hidden}, {"hidden": hidden}, {})
    assert float(found.sum) == pytest.approx(0, abs=1e-3)
    assert loss({"hidden": hidden.bfloat16()}, {"hidden": hidden.bfloat16()}, {}).sum.dtype == torch.float32
