"""What counts as a label, and what cross-entropy makes of it."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from kdcore.losses.base import Total
from kdcore.losses.cross_entropy import CrossEntropy
from kdcore.signals import Batch

from . import naive


def run(student: Tensor, batch: Batch, *, label_smoothing: float = 0.0) -> Total:
    total: Total = CrossEntropy(label_smoothing=label_smoothing)({"logits": student}, {}, batch)
    return total


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_mean_over_the_labelled_positions(student: Tensor, labels: Tensor, label_smoothing: float):
    total = run(student, {"labels": labels}, label_smoothing=label_smoothing)
    kept = labels != -100
    truth = naive.cross_entropy(student[kept], labels[kept], label_smoothing=label_smoothing)
    assert total.count.item() == 18
    assert (total.sum / total.count).item() == pytest.approx(truth.mean().item(), rel=1e-6)


def test_the_mask_and_the_labels_both_select(student: Tensor, labels: Tensor, mask: Tensor):
    total = run(student, {"labels": labels, "mask": mask})
    kept = (labels != -100) & mask
    assert total.count.item() == kept.sum().item() == 9
    assert total.sum.item() == pytest.approx(naive.cross_entropy(student[kept], labels[kept]).sum().item(), rel=1e-6)


def test_uniform_logits_cost_log_c():
    total = run(torch.zeros(3, 10), {"labels": torch.tensor([0, 5, 9])})
    assert total.sum.item() == pytest.approx(3 * math.log(10))


def test_one_hot_labels_are_integer_labels(student: Tensor, labels: Tensor):
    labels = labels.clamp(min=0)
    soft = torch.nn.functional.one_hot(labels, 7).float()
    here, there = run(student, {"labels": labels}), run(student, {"labels": soft})
    assert there.sum.item() == pytest.approx(here.sum.item(), rel=1e-6)
    assert there.count.item() == here.count.item() == 20


@pytest.mark.parametrize("class_axis", [-1, 1])
@pytest.mark.parametrize("masked", [False, True])
def test_the_count_of_soft_labels_is_foretold(student: Tensor, mask: Tensor, class_axis: int, masked: bool):
    loss = CrossEntropy()
    loss.class_axis = class_axis
    logits = student.movedim(-1, class_axis)
    batch = {"labels": logits.softmax(class_axis), **({"mask": mask} if masked else {})}
    foretold = loss.count(batch)
    assert foretold is not None
    assert foretold.item() == loss({"logits": logits}, {}, batch).count.item() == (11 if masked else 20)


def test_no_labels_at_all(student: Tensor):
    assert CrossEntropy().count({}) is None
    with pytest.raises(KeyError, match="cross_entropy reads the batch's `labels`, which this data does not give"):
        run(student, {})


def test_all_unlabelled_gives_zero_with_a_graph(student: Tensor):
    leaf = student.clone().requires_grad_()
    total = run(leaf, {"labels": torch.full((4, 5), -100)})
    total.sum.backward()
    assert (total.sum.item(), total.count.item()) == (0.0, 0)
    assert leaf.grad is not None
    assert not leaf.grad.any()


@pytest.mark.parametrize("label_smoothing", [-0.1, 1.0, 2.0])
def test_a_smoothing_that_is_no_share_is_refused(label_smoothing: float):
    with pytest.raises(ValueError, match=rf"label_smoothing={label_smoothing} is not in \[0, 1\)"):
        CrossEntropy(label_smoothing=label_smoothing)


def test_labels_that_do_not_fit_are_refused(student: Tensor):
    with pytest.raises(ValueError, match=r"labels have shape \(4,\)"):
        run(student, {"labels": torch.zeros(4, dtype=torch.long)})
