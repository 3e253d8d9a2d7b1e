"""Two students that teach each other where they are the more reliable one: pixels and regions."""

from __future__ import annotations

import math
import re
from typing import Any

import pytest
import torch
from kdcore import schedules
from kdcore.losses.base import Total
from torch import Tensor

from kdcore_segmentation.losses.collaboration import SelectivePixels, SelectiveRegions


def entropies(logits: Tensor, labels: Tensor) -> Tensor:
    """(N, H, W), pixel by pixel in float64; 0 without a label."""
    out = torch.zeros(labels.shape, dtype=torch.float64)
    for n, i, j in (labels >= 0).nonzero().tolist():
        z = logits[n, :, i, j].double()
        out[n, i, j] = z.exp().sum().log() - z[labels[n, i, j]]
    return out


def naive_pixels(student: Tensor, teacher: Tensor, labels: Tensor, temperature: float = 1.0) -> tuple[Tensor, int]:
    ours, theirs = entropies(student, labels), entropies(teacher, labels)
    added, count = torch.zeros((), dtype=torch.float64), 0
    for n, i, j in (labels >= 0).nonzero().tolist():
        if theirs[n, i, j] < ours[n, i, j]:
            p, q = ((x[n, :, i, j].double() / temperature).softmax(0) for x in (teacher, student))
            added = added + temperature**2 * (p * (p / q).log()).sum()
            count += 1
    return added, count


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_pixels_are_distilled_where_the_teacher_is_more_reliable(
    run, student: Tensor, teacher: Tensor, labels: Tensor, temperature: float
):
    ours, exact = student.clone().requires_grad_(), student.clone().requires_grad_()
    total = run(SelectivePixels(temperature=temperature), ours, teacher, {"labels": labels})
    truth, count = naive_pixels(exact, teacher, labels, temperature)
    total.sum.backward()
    truth.backward()
    assert total.sum.item() == pytest.approx(truth.item(), rel=1e-5)
    assert total.count.item() == count
    torch.testing.assert_close(ours.grad, exact.grad, rtol=1e-4, atol=1e-6)


def test_each_labelled_pixel_teaches_one_way(run, student: Tensor, teacher: Tensor, labels: Tensor):
    there = run(SelectivePixels(), student, teacher, {"labels": labels})
    back = run(SelectivePixels(), teacher, student, {"labels": labels})
    assert there.count > 0
    assert back.count > 0
    assert there.count + back.count == (labels >= 0).sum()


def test_equally_good_pixels_teach_neither_way(run, student: Tensor, labels: Tensor):
    leaf = student.clone().requires_grad_()
    total = run(SelectivePixels(), leaf, student, {"labels": labels})
    total.sum.backward()
    assert (total.sum.item(), total.count.item()) == (0.0, 0)
    assert leaf.grad is not None
    assert not leaf.grad.any()


def test_by_hand(run):
    # the label is 0: the teacher is right at the first pixel, the student at the second
    student = torch.tensor([[[[0.0, 2.0]], [[0.0, 0.0]]]])
    teacher = torch.tensor([[[[1.0, 0.0]], [[0.0, 0.0]]]])
    total = run(SelectivePixels(), student, teacher, {"labels": torch.zeros(1, 1, 2, dtype=torch.int64)})
    p = 1 / (1 + math.exp(-1))
    assert total.sum.item() == pytest.approx(p * math.log(2 * p) + (1 - p) * math.log(2 * (1 - p)), rel=1e-5)
    assert total.count.item() == 1


def test_the_selection_has_no_gradient_of_its_own_and_the_teacher_none(
    run, student: Tensor, teacher: Tensor, labels: Tensor
):
    leaf = student.clone().requires_grad_()
    run(SelectivePixels(), leaf, teacher, {"labels": labels}).sum.backward()
    chosen = (entropies(teacher, labels) < entropies(student, labels)) & (labels >= 0)
    assert leaf.grad is not None
    assert torch.equal(leaf.grad.abs().sum(1) > 0, chosen)
    assert teacher.grad is None


@pytest.mark.parametrize("rubbish", [math.nan, math.inf, 1e30])
def test_what_stands_where_there_is_no_label_changes_nothing(
    run, student: Tensor, teacher: Tensor, labels: Tensor, mask: Tensor, rubbish: float
):
    batch, left_out = {"labels": labels, "mask": mask}, (~mask | (labels < 0)).unsqueeze(1)
    clean = run(SelectivePixels(), student, teacher, batch)
    leaf = student.masked_fill(left_out, rubbish).requires_grad_()
    spoilt = run(SelectivePixels(), leaf, teacher.masked_fill(left_out, rubbish), batch)
    spoilt.sum.backward()
    assert (spoilt.sum.item(), spoilt.count.item()) == (clean.sum.item(), clean.count.item())
    assert leaf.grad is not None
    assert leaf.grad.isfinite().all()


def test_a_scheduled_temperature_follows_the_progress(run, student: Tensor, teacher: Tensor, labels: Tensor):
    loss = SelectivePixels(temperature=schedules.linear(start=1.0, end=5.0))
    loss.progress = schedules.Progress(0.5)
    truth, _ = naive_pixels(student, teacher, labels, 3.0)
    assert run(loss, student, teacher, {"labels": labels}).sum.item() == pytest.approx(truth.item(), rel=1e-5)


# ---- regions


def regions(s: Tensor, t: Tensor, ours: Tensor, theirs: Tensor, batch: dict[str, Any], grid: int = 8) -> Total:
    total = SelectiveRegions(grid=grid)({"feature": s, "logits": ours}, {"feature": t, "logits": theirs}, batch)
    assert isinstance(total, Total)
    assert (total.sum.dtype, total.count.dtype) == (torch.float32, torch.int64)
    return total


def naive_regions(s: Tensor, t: Tensor, doubts: list[Tensor], grid: int) -> tuple[Tensor, int]:
    """Cross-entropies of student and teacher, and features of any other size, position by position."""
    added, count = torch.zeros((), dtype=torch.float64), 0
    height, width = doubts[0].shape[1:]
    for n, i, j in torch.ones(len(s), *s.shape[2:]).nonzero().tolist():
        row, column = i * grid // s.shape[2], j * grid // s.shape[3]
        inside = [
            (a, b)
            for a in range(height)
            for b in range(width)
            if (a * grid // height, b * grid // width) == (row, column)
        ]
        ours, theirs = (sum(doubt[n, a, b] for a, b in inside) for doubt in doubts)
        if theirs < ours:
            added = added + ((s[n, :, i, j].double() - t[n, :, i, j].double()) ** 2).mean()
            count += 1
    return added, count


@pytest.mark.parametrize("grid", [1, 2, 3])
def test_regions_are_distilled_where_the_teacher_is_more_reliable(
    student: Tensor, teacher: Tensor, labels: Tensor, grid: int
):
    """Features of half the logits' size, in regions that do not divide either."""
    s, t = (torch.randn(3, 7, 2, 3, generator=torch.Generator().manual_seed(seed)) for seed in (5, 6))
    leaf, exact = s.clone().requires_grad_(), s.clone().requires_grad_()
    total = regions(leaf, t, student, teacher, {"labels": labels}, grid)
    doubts = [entropies(x, labels) for x in (student, teacher)]
    truth, count = naive_regions(exact, t, doubts, grid)
    total.sum.backward()
    assert total.count.item() == count
    assert total.sum.item() == pytest.approx(truth.item(), rel=1e-5)
    (gradient,) = torch.autograd.grad(truth, exact) if count else (torch.zeros_like(s),)
    torch.testing.assert_close(leaf.grad, gradient.float())


def test_each_region_with_labels_teaches_one_way(student: Tensor, teacher: Tensor, labels: Tensor):
    batch = {"labels": labels}
    there = regions(student, teacher, student, teacher, batch, 2)
    back = regions(teacher, student, teacher, student, batch, 2)
    assert there.count + back.count == labels.numel()
    assert there.count % 6 == 0  # a region has 2 x 3 positions


def test_a_region_without_a_label_teaches_neither_way(student: Tensor, teacher: Tensor, labels: Tensor):
    labels[:, :2, :3] = -100
    batch = {"labels": labels}
    there = regions(student, teacher, student, teacher, batch, 2)
    back = regions(teacher, student, teacher, student, batch, 2)
    assert there.count + back.count == labels.numel() - 3 * 6


def test_features_of_regions_not_selected_may_hold_anything(student: Tensor, teacher: Tensor, labels: Tensor):
    batch = {"labels": labels}
    clean = student.clone().requires_grad_()
    before = regions(clean, teacher, student, teacher, batch, 2)
    before.sum.backward()
    assert clean.grad is not None
    unselected = clean.grad.abs().sum(1, keepdim=True) == 0
    assert unselected.any()
    leaf = student.masked_fill(unselected, math.nan).requires_grad_()
    after = regions(leaf, teacher, student, teacher, batch, 2)
    after.sum.backward()
    assert after.sum.item() == before.sum.item()
    assert torch.equal(leaf.grad, clean.grad)


def test_the_logits_only_choose(student: Tensor, teacher: Tensor, labels: Tensor):
    logits = student.clone().requires_grad_()
    regions(student.clone().requires_grad_(), teacher, logits, teacher, {"labels": labels}, 2).sum.backward()
    assert logits.grad is None


def test_a_class_that_a_net_excludes_does_not_spoil_other_regions(student: Tensor, teacher: Tensor, labels: Tensor):
    labels[0, 3, 5] = 1
    worse = student.clone()
    worse[0, 1, 3, 5] = -math.inf
    here = regions(student, teacher, student, teacher, {"labels": labels}, 2)
    there = regions(student, teacher, worse, teacher, {"labels": labels}, 2)
    assert there.sum.isfinite()
    assert there.count - here.count in (0, 6)


def test_senseless_parameters_are_refused():
    with pytest.raises(ValueError, match="temperature=0 is not above 0"):
        SelectivePixels(temperature=0)
    with pytest.raises(ValueError, match="grid=0: an image is cut into at least one region"):
        SelectiveRegions(grid=0)


def test_maps_that_differ_are_refused(run, student: Tensor, teacher: Tensor, labels: Tensor):
    batch = {"labels": labels}
    with pytest.raises(ValueError, match=re.escape("`resize: student` or `resize: teacher`")):
        run(SelectivePixels(), student, teacher[..., :3], batch)
    with pytest.raises(ValueError, match=re.escape("`project: conv1x1`")):
        regions(student[:, :2], teacher, student, teacher, batch)
    with pytest.raises(ValueError, match=re.escape("`project: conv1x1`")):
        regions(student, teacher, student[:, :2], teacher, batch)


def test_a_batch_without_labels_is_refused(run, student: Tensor, teacher: Tensor):
    with pytest.raises(KeyError, match="collaboration_pixel reads the batch's `labels`"):
        run(SelectivePixels(), student, teacher)
    with pytest.raises(KeyError, match="collaboration_region reads the batch's `labels`"):
        regions(student, teacher, student, teacher, {})
