"""What the core's own losses do on maps: pixel-wise distillation with masks, and features of two nets alike."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from kdcore.losses.base import Loss
from kdcore.losses.kl import KL
from kdcore.losses.regression import MSE
from torch import Tensor


def on_maps(loss: Loss) -> Any:
    loss.class_axis = 1  # as the task `semantic` says
    return loss


def naive_kl(student: Tensor, teacher: Tensor, kept: Tensor, temperature: float) -> tuple[float, int]:
    """Pixel by pixel, in float64."""
    added, count = 0.0, 0
    for n, i, j in kept.nonzero().tolist():
        p, q = ((x[n, :, i, j].double() / temperature).softmax(0) for x in (teacher, student))
        added += temperature**2 * (p * (p / q).log()).sum().item()
        count += 1
    return added, count


def test_pixel_wise_distillation_is_the_cores_kl_with_a_mask_for_each_pixel(
    student: Tensor, teacher: Tensor, mask: Tensor
):
    loss, batch = on_maps(KL(temperature=2.0)), {"mask": mask}
    total = loss({"logits": student}, {"logits": teacher}, batch)
    added, count = naive_kl(student, teacher, mask, 2.0)
    assert total.sum.item() == pytest.approx(added, rel=1e-5)
    assert total.count.item() == count == loss.count(batch).item()


def test_pixels_weigh_as_the_batch_says(student: Tensor, teacher: Tensor, mask: Tensor):
    weight = torch.zeros(3, 4, 6)
    weight[0, 1, 2] = 3.0
    total = on_maps(KL())({"logits": student}, {"logits": teacher}, {"mask": mask, "weight": weight})
    one = torch.zeros_like(mask)
    one[0, 1, 2] = True
    assert total.sum.item() == pytest.approx(3 * naive_kl(student, teacher, one, 1.0)[0], rel=1e-5)
    assert total.count.item() == mask.sum().item()


def test_without_a_mask_unlabelled_pixels_are_distilled_too(student: Tensor, teacher: Tensor, labels: Tensor):
    total = on_maps(KL())({"logits": student}, {"logits": teacher}, {"labels": labels})
    assert total.count.item() == labels.numel()
    assert total.sum.item() == pytest.approx(naive_kl(student, teacher, labels > -999, 1.0)[0], rel=1e-5)


def test_features_of_two_nets_are_compared_by_the_cores_mse(student: Tensor, teacher: Tensor, labels: Tensor):
    """The low-layer part of CNN-transformer collaboration: one slot a direction, with `project` in the tap."""
    total = on_maps(MSE())({"logits": student}, {"logits": teacher}, {"labels": labels})
    difference = (student - teacher).double().flatten().tolist()
    assert (total.sum / total.count).item() == pytest.approx(sum(d * d for d in difference) / len(difference), rel=1e-5)
