"""Masked generation: its sum, its mask, its trainable parts."""

from __future__ import annotations

import re

import pytest
import torch
from torch import Tensor, nn

from kdcore.losses.mgd import MaskedGenerative


def made(student: Tensor, teacher: Tensor, ratio: float = 0.75) -> MaskedGenerative:
    loss = MaskedGenerative(ratio=ratio)
    loss.setup({"student": {"feature": student}, "teacher": {"feature": teacher}}, {}, lambda _: nn.Identity())
    return loss


def copying(loss: MaskedGenerative) -> MaskedGenerative:
    """Makes the generator a ReLU: each convolution passes its channels on."""
    for part in (loss.generator[0], loss.generator[2]):  # type: ignore[index]
        nn.init.dirac_(part.weight)
        nn.init.zeros_(part.bias)
    return loss


def convolved(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """A 3 x 3 convolution of one map (C, H, W), padded by one, position by position."""
    _, height, width = x.shape
    padded = torch.zeros(x.shape[0], height + 2, width + 2, dtype=x.dtype)
    padded[:, 1:-1, 1:-1] = x
    out = torch.zeros(len(weight), height, width, dtype=x.dtype)
    for i in range(height):
        for j in range(width):
            out[:, i, j] = (weight * padded[:, i : i + 3, j : j + 3]).sum((1, 2, 3)) + bias
    return out


def test_the_value_is_that_of_the_definition(run, student_map: Tensor, teacher_map: Tensor):
    loss = made(student_map, teacher_map[:, :3])
    torch.manual_seed(5)
    total = run(loss, student_map, teacher_map[:, :3])
    torch.manual_seed(5)
    kept = torch.rand(3, 1, 4, 6) >= 0.75
    first, _, last = loss.generator.double()  # type: ignore[misc]
    align = loss.align.double()
    truth = 0.0
    for n in range(3):
        aligned = torch.einsum("dc,chw->dhw", align.weight[:, :, 0, 0], student_map[n].double())
        visible = (aligned + align.bias.view(-1, 1, 1)) * kept[n]
        generated = convolved(convolved(visible, first.weight, first.bias).clamp(min=0), last.weight, last.bias)
        truth += ((generated - teacher_map[n, :3].double()) ** 2).sum().item()
    assert total.sum.item() == pytest.approx(truth, rel=1e-5)
    assert total.count.item() == 3


def test_elements_are_added_not_averaged(run):
    student, teacher = torch.ones(2, 4, 3, 3), torch.full((2, 4, 3, 3), 3.0)
    loss = copying(made(student, teacher, ratio=0.0))
    total = run(loss, student, teacher)
    assert (total.sum / total.count).item() == pytest.approx(4 * 3 * 3 * 4.0)


def test_a_hidden_position_is_hidden_in_all_channels(run):
    student, teacher = torch.ones(1, 4, 8, 8), torch.zeros(1, 4, 8, 8)
    loss = copying(made(student, teacher, ratio=0.5))
    torch.manual_seed(1)
    visible = run(loss, student, teacher).sum.item()
    torch.manual_seed(1)
    assert visible == 4 * (torch.rand(1, 1, 8, 8) >= 0.5).sum().item()


@pytest.mark.parametrize("ratio", [0.25, 0.75])
def test_the_ratio_is_the_share_that_is_hidden(run, ratio: float):
    student, teacher = torch.ones(4, 1, 64, 64), torch.zeros(4, 1, 64, 64)
    loss = copying(made(student, teacher, ratio=ratio))
    torch.manual_seed(0)
    assert run(loss, student, teacher).sum.item() / (4 * 64 * 64) == pytest.approx(1 - ratio, abs=0.02)


def test_hidden_positions_get_no_gradient_of_the_student(run):
    student = torch.ones(1, 2, 8, 8, requires_grad=True)
    loss = copying(made(student, student.detach()))
    torch.manual_seed(3)
    run(loss, student, torch.zeros(1, 2, 8, 8)).sum.backward()
    torch.manual_seed(3)
    kept = torch.rand(1, 1, 8, 8) >= 0.75
    assert student.grad is not None
    assert torch.equal(student.grad != 0, kept.expand(1, 2, 8, 8))


def test_the_mask_follows_torchs_generator_and_differs_from_step_to_step(run, student_map: Tensor, teacher_map: Tensor):
    loss = made(student_map, teacher_map)
    torch.manual_seed(0)
    first, second = run(loss, student_map, teacher_map).sum, run(loss, student_map, teacher_map).sum
    torch.manual_seed(0)
    assert run(loss, student_map, teacher_map).sum == first
    assert first != second


def test_generator_and_alignment_learn_and_the_teacher_does_not(run, student_map: Tensor, teacher_map: Tensor):
    leaf, like = student_map.requires_grad_(), torch.randn(3, 7, 4, 6)
    loss = made(student_map, like)
    assert {name for name, _ in loss.named_parameters()} == {
        *("align.weight", "align.bias"),
        *("generator.0.weight", "generator.0.bias", "generator.2.weight", "generator.2.bias"),
    }
    run(loss, leaf, like).sum.backward()
    assert all(p.grad is not None and p.grad.any() for p in loss.parameters())
    assert leaf.grad is not None
    assert leaf.grad.any()
    assert like.grad is None


def test_equal_channels_need_no_alignment(student_map: Tensor, teacher_map: Tensor):
    assert not list(made(student_map, teacher_map).align.parameters())


def test_a_run_all_in_half_precision_gives_nearly_the_same(run, student_map: Tensor, teacher_map: Tensor):
    loss = made(student_map, teacher_map[:, :3], ratio=0.0)
    exact = run(loss, student_map, teacher_map[:, :3]).sum.item()
    half = run(loss.bfloat16(), student_map.bfloat16(), teacher_map[:, :3].bfloat16())
    assert half.sum.item() == pytest.approx(exact, rel=0.05)


@pytest.mark.parametrize("ratio", [-0.1, 1.0, float("nan")])
def test_a_ratio_that_is_no_share_is_refused(ratio: float):
    said = f"ratio={ratio} is not in [0, 1): it is the share of the positions that is hidden"
    with pytest.raises(ValueError, match=re.escape(said)):
        MaskedGenerative(ratio=ratio)


def test_other_sizes_are_refused_from_the_start(student_map: Tensor, teacher_map: Tensor):
    with pytest.raises(ValueError, match=re.escape("`resize: student` or `resize: teacher`")):
        made(student_map, teacher_map[..., :3])
