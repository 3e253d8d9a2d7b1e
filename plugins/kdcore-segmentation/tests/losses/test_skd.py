"""Pair-wise affinities: against loops, by hand, and what they do not depend on."""

from __future__ import annotations

import re

import pytest
import torch
from torch import Tensor

from kdcore_segmentation.losses.skd import PairWise


def naive_nodes(x: Tensor, patch: int) -> list[Tensor]:
    """Mean of each patch, rows first; those at the border may be smaller."""
    height, width = x.shape[1:]
    return [
        x[:, i : i + patch, j : j + patch].double().mean((1, 2))
        for i in range(0, height, patch)
        for j in range(0, width, patch)
    ]


def naive(student: Tensor, teacher: Tensor, patch: int) -> Tensor:
    """One value a sample, pair by pair in float64."""
    values = []
    for s, t in zip(student, teacher, strict=True):
        ours, theirs = naive_nodes(s, patch), naive_nodes(t, patch)
        pairs = [
            (
                ours[i] @ ours[j] / (ours[i].norm() * ours[j].norm())
                - theirs[i] @ theirs[j] / (theirs[i].norm() * theirs[j].norm())
            )
            ** 2
            for i in range(len(ours))
            for j in range(len(ours))
        ]
        values.append(torch.stack(pairs).mean())
    return torch.stack(values)


@pytest.mark.parametrize("patch", [1, 2, 3, 4])
def test_value_and_gradient_are_those_of_the_definition(run, student: Tensor, teacher: Tensor, patch: int):
    ours, exact = student.clone().requires_grad_(), student.clone().requires_grad_()
    total = run(PairWise(patch=patch), ours, teacher)
    truth = naive(exact, teacher, patch).sum()
    total.sum.backward()
    truth.backward()
    assert total.sum.item() == pytest.approx(truth.item(), rel=1e-5)
    assert total.count.item() == 3
    torch.testing.assert_close(ours.grad, exact.grad, rtol=1e-4, atol=1e-7)


def test_by_hand(run):
    # two positions: the teacher's are alike, the student's at a right angle; 2 of 4 pairs differ, each by 1
    student = torch.tensor([[[[1.0, 0.0]], [[0.0, 5.0]]]])
    teacher = torch.tensor([[[[1.0, 3.0]], [[1.0, 3.0]], [[1.0, 3.0]]]])
    assert run(PairWise(patch=1), student, teacher).sum.item() == pytest.approx(0.5)


def test_a_node_is_two_by_two_by_default(run, student: Tensor, teacher: Tensor):
    assert run(PairWise(), student, teacher).sum.item() == run(PairWise(patch=2), student, teacher).sum.item()


def test_neither_lengths_nor_a_rotation_of_the_features_matter(run, student: Tensor, teacher: Tensor):
    rotation, _ = torch.linalg.qr(torch.randn(5, 5))
    turned = 3 * torch.einsum("dc,nchw->ndhw", rotation, student)
    here, there = run(PairWise(), student, teacher), run(PairWise(), turned, teacher)
    assert there.sum.item() == pytest.approx(here.sum.item(), rel=1e-4)


def test_channels_may_differ(run, student: Tensor, teacher: Tensor):
    total = run(PairWise(), student, teacher[:, :2])
    assert total.sum.item() == pytest.approx(naive(student, teacher[:, :2], 2).sum().item(), rel=1e-5)


def test_equal_maps_cost_nothing_and_have_a_gradient(run, teacher: Tensor):
    leaf = teacher.clone().requires_grad_()
    total = run(PairWise(), leaf, 2 * teacher)
    total.sum.backward()
    assert total.sum.item() == pytest.approx(0.0, abs=1e-9)
    assert leaf.grad is not None
    assert leaf.grad.isfinite().all()


def test_dead_features_have_no_gradient_and_spoil_no_others(run, student: Tensor, teacher: Tensor):
    student[:, :, :2, :2] = 0.0
    leaf = student.requires_grad_()
    total = run(PairWise(), leaf, teacher)
    total.sum.backward()
    assert leaf.grad is not None
    assert not leaf.grad[:, :, :2, :2].any()
    assert leaf.grad[:, :, 2:].abs().max() < 10
    assert leaf.grad[:, :, 2:].any()


@pytest.mark.parametrize("patch", [0, -1])
def test_a_patch_of_nothing_is_refused(patch: int):
    with pytest.raises(ValueError, match=f"patch={patch}: a node is made of at least 1 x 1 position"):
        PairWise(patch=patch)


def test_other_sizes_are_refused(run, student: Tensor, teacher: Tensor):
    with pytest.raises(ValueError, match=re.escape("`resize: student` or `resize: teacher`")):
        run(PairWise(), student, teacher[..., :3])
