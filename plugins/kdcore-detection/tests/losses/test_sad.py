"""Spatial attention and sparsity: where a net looks, whatever its channels, and which channels can go."""

from __future__ import annotations

import copy
import re

import pytest
import torch
from scene import feature_map, set_up, totals
from torch import Tensor, nn

from kdcore_detection.losses.sad import Sparsity, SpatialAttention


def mean(student: Tensor, teacher: Tensor) -> float:
    (total,) = totals(SpatialAttention(), student, teacher).values()
    assert total.count.item() == len(student)
    value: float = (total.sum / total.count).item()
    return value


def naive(s: Tensor, t: Tensor) -> float:
    """One image (C, H, W), in plain Python."""

    def looks(x: Tensor) -> list[float]:
        flat = [sum(v * v for v in column) for column in x.double().flatten(1).T.tolist()]
        length = sum(v * v for v in flat) ** 0.5
        return [v / length for v in flat]

    return sum((a - b) ** 2 for a, b in zip(looks(s), looks(t), strict=True))


@pytest.mark.parametrize("channels", [4, 2, 7])
def test_the_value_is_that_of_the_definition(channels: int):
    student, teacher = feature_map(1, channels), feature_map(2)
    assert mean(student, teacher) == pytest.approx(sum(naive(student[n], teacher[n]) for n in range(3)) / 3, rel=1e-5)


def test_by_hand():
    student, teacher = torch.zeros(1, 1, 1, 2), torch.zeros(1, 2, 1, 2)
    student[0, 0, 0, 0] = 3.0  # looks left
    teacher[0, :, 0, 1] = torch.tensor([1.0, 2.0])  # looks right
    assert mean(student, teacher) == pytest.approx(2.0)
    assert mean(student, teacher.flip(-1)) == pytest.approx(0.0)


def test_neither_scale_nor_sign_nor_the_order_of_channels_matters():
    student, teacher = feature_map(1), feature_map(2)
    known = mean(student, teacher)
    assert mean(-0.01 * student.flip(1), 30 * teacher) == pytest.approx(known, rel=1e-4)


def test_parts_of_a_batch_add_up():
    student, teacher = feature_map(1), feature_map(2)
    assert 3 * mean(student, teacher) == pytest.approx(
        sum(mean(student[n : n + 1], teacher[n : n + 1]) for n in range(3))
    )


def test_the_gradient_is_that_of_the_value():
    student, teacher = feature_map(1)[:1, :2, :2, :2].double().requires_grad_(), feature_map(2)[:1, :, :2, :2].double()
    loss = SpatialAttention()
    assert torch.autograd.gradcheck(
        lambda s: loss({"feature": s}, {"feature": teacher}, {}).sum, student, eps=1e-3, atol=1e-2, rtol=1e-2
    )


def test_a_dead_map_has_no_gradient():
    student = torch.zeros(1, 4, 4, 6, requires_grad=True)
    (total,) = totals(SpatialAttention(), student, feature_map(2)[:1]).values()
    total.sum.backward()
    assert total.sum.item() == pytest.approx(1.0)
    assert student.grad is not None
    assert not student.grad.any()


def test_half_precision_is_computed_in_float32():
    student, teacher = feature_map(1).bfloat16(), feature_map(2).bfloat16()
    assert mean(student, teacher) == pytest.approx(mean(student.float(), teacher.float()), rel=1e-6)


def test_other_strides_are_refused_with_what_to_do():
    with pytest.raises(ValueError, match=re.escape("give the loss `resize: student` or `resize: teacher`")):
        mean(feature_map(1), feature_map(2)[:, :, :2])


# ---- sparsity


def net() -> nn.Sequential:
    made = nn.Sequential(
        nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2), nn.Sequential(nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3)), nn.GroupNorm(1, 3)
    )
    with torch.no_grad():
        made[1].weight.copy_(torch.tensor([0.5, -2.0]))
        made[2][1].weight.copy_(torch.tensor([1.0, 0.0, -0.25]))
    return made


def sparse(student: nn.Module, modules: str = "**") -> Sparsity:
    loss: Sparsity = set_up(Sparsity(modules=modules), {}, {}, student=student)
    return loss


BATCH = {"id": torch.arange(4)}


def test_it_is_the_sum_of_the_scales_sizes_for_every_sample():
    (total,) = totals(sparse(net()), {}, {}, BATCH).values()
    assert (total.sum / total.count).item() == pytest.approx(0.5 + 2.0 + 1.0 + 0.25)
    assert total.count.item() == 4
    assert sparse(net()).count(BATCH).item() == 4


@pytest.mark.parametrize(("modules", "value"), [("1", 2.5), ("2.**", 1.25), ("*", 2.5), ("**", 3.75)])
def test_modules_choose(modules: str, value: float):
    (total,) = totals(sparse(net(), modules), {}, {}, BATCH).values()
    assert (total.sum / total.count).item() == pytest.approx(value)


def test_the_gradient_drives_scales_to_zero_and_nothing_else():
    student = net()
    (total,) = totals(sparse(student), {}, {}, BATCH).values()
    (total.sum / total.count).backward()
    assert student[1].weight.grad.tolist() == [1.0, -1.0]
    assert student[2][1].weight.grad.tolist() == [1.0, 0.0, -1.0]
    others = [p for name, p in student.named_parameters() if name not in ("1.weight", "2.1.weight")]
    assert all(p.grad is None for p in others)


def test_the_students_weights_are_no_part_of_the_loss():
    loss = sparse(net())
    assert not list(loss.parameters())
    assert not loss.state_dict()
    loss.close()
    assert loss._borrowed == ()


def test_a_copy_of_both_keeps_them_together():
    student = net()
    together = copy.deepcopy({"student": student, "loss": sparse(student)})
    assert together["loss"].borrowed()[0] is together["student"][1]


@pytest.mark.parametrize("modules", ["0", "3", "nothing.**"])
def test_a_net_without_such_scales_is_refused(modules: str):
    said = (
        f"the student has no batch normalisation whose scales learn among its modules `{modules}`: a net with other, "
        "or frozen, normalisation does not show in this way which channels can go"
    )
    with pytest.raises(ValueError, match=re.escape(said)):
        sparse(net(), modules)


def test_frozen_scales_are_left_alone():
    student = net()
    student[1].requires_grad_(False)
    (total,) = totals(sparse(student), {}, {}, BATCH).values()
    assert (total.sum / total.count).item() == pytest.approx(1.25)
    with pytest.raises(ValueError, match="no batch normalisation whose scales learn"):
        sparse(student.requires_grad_(False))
