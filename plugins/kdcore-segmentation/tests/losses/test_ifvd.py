"""Intra-class variation: against loops, and what has no label or no class."""

from __future__ import annotations

import math
import re

import pytest
import torch
from torch import Tensor

from kdcore_segmentation.losses.ifvd import IntraClassVariation


def naive(student: Tensor, teacher: Tensor, labels: Tensor) -> tuple[Tensor, int]:
    """Sum and number of the terms, position by position in float64."""
    added, count = torch.zeros((), dtype=torch.float64), 0
    for s, t, image in zip(student.double(), teacher.double(), labels, strict=True):
        for i in range(image.shape[0]):
            for j in range(image.shape[1]):
                if image[i, j] < 0:
                    continue
                same = image == image[i, j]
                found = []
                for x in (s, t):
                    prototype = x[:, same].mean(1)
                    found.append(x[:, i, j] @ prototype / (x[:, i, j].norm() * prototype.norm()))
                added = added + (found[0] - found[1]) ** 2
                count += 1
    return added, count


def test_value_and_gradient_are_those_of_the_definition(run, student: Tensor, teacher: Tensor, labels: Tensor):
    ours, exact = student.clone().requires_grad_(), student.clone().requires_grad_()
    total = run(IntraClassVariation(classes=5), ours, teacher, {"labels": labels})
    truth, count = naive(exact, teacher, labels)
    total.sum.backward()
    truth.backward()
    assert total.sum.item() == pytest.approx(truth.item(), rel=1e-5)
    assert total.count.item() == count == 3 * 24 - 2 - 6
    torch.testing.assert_close(ours.grad, exact.grad, rtol=1e-4, atol=1e-6)


def test_by_hand(run):
    # one class of two positions: prototype of the student (1, 1) / 2, at 45 degrees to both; the teacher's are equal
    student = torch.tensor([[[[1.0, 0.0]], [[0.0, 1.0]]]])
    teacher = torch.ones(1, 3, 1, 2)
    total = run(IntraClassVariation(classes=2), student, teacher, {"labels": torch.tensor([[[1, 1]]])})
    assert total.sum.item() == pytest.approx(2 * (1 - 0.5**0.5) ** 2, rel=1e-5)
    assert total.count.item() == 2


def test_a_class_of_one_position_is_its_own_prototype(run, student: Tensor, teacher: Tensor):
    labels = torch.full((3, 4, 6), -100)
    labels[:, 0, 0], labels[:, 3, 5] = 0, 1
    total = run(IntraClassVariation(classes=2), student, teacher, {"labels": labels})
    assert total.sum.item() == pytest.approx(0.0, abs=1e-9)
    assert total.count.item() == 6


def test_labels_are_resized_to_the_nearest(run, student: Tensor, teacher: Tensor, labels: Tensor):
    large = labels.repeat_interleave(4, 1).repeat_interleave(4, 2)
    loss = IntraClassVariation(classes=5)
    here, there = (run(loss, student, teacher, {"labels": given}) for given in (labels, large))
    assert (there.sum, there.count) == (here.sum, here.count)


def test_the_mask_takes_labels_away(run, student: Tensor, teacher: Tensor, labels: Tensor, mask: Tensor):
    total = run(IntraClassVariation(classes=5), student, teacher, {"labels": labels, "mask": mask})
    truth, count = naive(student, teacher, labels.masked_fill(~mask, -100))
    assert total.sum.item() == pytest.approx(truth.item(), rel=1e-5)
    assert total.count.item() == count


@pytest.mark.parametrize("rubbish", [math.nan, math.inf, 1e30])
def test_what_stands_where_there_is_no_label_changes_nothing(
    run, student: Tensor, teacher: Tensor, labels: Tensor, rubbish: float
):
    loss, unlabelled = IntraClassVariation(classes=5), (labels < 0).unsqueeze(1)
    clean = run(loss, student, teacher, {"labels": labels})
    leaf = student.masked_fill(unlabelled, rubbish).requires_grad_()
    spoilt = run(loss, leaf, teacher.masked_fill(unlabelled, rubbish), {"labels": labels})
    spoilt.sum.backward()
    assert spoilt.sum.item() == clean.sum.item()
    assert leaf.grad is not None
    assert not leaf.grad.masked_select(unlabelled).any()
    assert leaf.grad.isfinite().all()


def test_channels_may_differ(run, student: Tensor, teacher: Tensor, labels: Tensor):
    total = run(IntraClassVariation(classes=5), student, teacher[:, :3], {"labels": labels})
    assert total.sum.item() == pytest.approx(naive(student, teacher[:, :3], labels)[0].item(), rel=1e-5)


def test_equal_maps_cost_nothing(run, teacher: Tensor, labels: Tensor):
    leaf = teacher.clone().requires_grad_()
    total = run(IntraClassVariation(classes=5), leaf, 2 * teacher, {"labels": labels})
    total.sum.backward()
    assert total.sum.item() == pytest.approx(0.0, abs=1e-9)
    assert leaf.grad is not None
    assert leaf.grad.abs().max() < 1e-5


def test_dead_features_have_no_gradient(run, student: Tensor, teacher: Tensor, labels: Tensor):
    student[:, :, 1] = 0.0
    leaf = student.requires_grad_()
    run(IntraClassVariation(classes=5), leaf, teacher, {"labels": labels}).sum.backward()
    assert leaf.grad is not None
    assert leaf.grad.isfinite().all()
    assert leaf.grad.abs().max() < 100


def test_a_batch_without_labels_is_refused(run, student: Tensor, teacher: Tensor):
    with pytest.raises(KeyError, match="ifvd reads the batch's `labels`, which this data does not give"):
        run(IntraClassVariation(classes=5), student, teacher)


def test_other_sizes_are_refused(run, student: Tensor, teacher: Tensor, labels: Tensor):
    with pytest.raises(ValueError, match=re.escape("`resize: student` or `resize: teacher`")):
        run(IntraClassVariation(classes=5), student, teacher[..., :3], {"labels": labels})
