"""Adaptive masking: how masks are made, what they weigh, that they differ, and that all of it learns."""

from __future__ import annotations

import math
import re

import pytest
import torch
from scene import feature_map, set_up, totals
from torch import Tensor

from kdcore_detection.losses.acam import AdaptiveMasking, overlap, under


def made(student: Tensor, teacher: Tensor, *, masks: int = 6, diversity: float = 1.0) -> AdaptiveMasking:
    torch.manual_seed(0)
    loss: AdaptiveMasking = set_up(
        AdaptiveMasking(masks=masks, diversity=diversity), {"feature": student}, {"feature": teacher}
    )
    return loss


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def dice(masks: list[list[float]]) -> float:
    pairs = [(a, b) for i, a in enumerate(masks) for j, b in enumerate(masks) if i < j]
    each = [
        2 * sum(p * q for p, q in zip(a, b, strict=True)) / (sum(p * p for p in a) + sum(q * q for q in b))
        for a, b in pairs
    ]
    return sum(each) / len(each)


def naive(loss: AdaptiveMasking, s: Tensor, t: Tensor) -> dict[str, float]:
    """One image (C, H, W), in float64, position by position."""
    channels, height, width = t.shape
    size = height * width

    def at(part: torch.nn.Module, x: Tensor) -> list[Tensor]:
        weight = part.weight.double()[:, :, 0, 0]
        bias = 0.0 if part.bias is None else part.bias.double()
        return [weight @ x[:, i, j].double() + bias for i in range(height) for j in range(width)]

    s = torch.stack(at(loss.align, s), 1).view(channels, height, width) if hasattr(loss.align, "weight") else s.double()
    ask, key, value = at(loss.ask, t), at(loss.key, s), at(loss.value, s)
    seen = []
    for q in ask:
        weights = torch.stack([q @ k / math.sqrt(len(q)) for k in key]).softmax(0)
        seen.append(sum(w * v for w, v in zip(weights, value, strict=True)))
    pooled = sum(seen) / size
    a, b = loss.channel_selectors.double(), loss.position_selectors.double()
    by_channel = [[sigmoid((a[m, 0] * pooled[c]).item()) for c in range(channels)] for m in range(len(a))]
    by_position = [[sigmoid((b[m] @ u).item()) for u in seen] for m in range(len(b))]
    gap = (t.double() - s).flatten(1)
    terms = {"channels": 0.0, "positions": 0.0, "diversity": dice(by_channel) + dice(by_position)}
    for mask in by_channel:
        squares = sum((mask[c] * gap[c, p].item()) ** 2 for c in range(channels) for p in range(size))
        terms["channels"] += squares / (size * sum(k * k for k in mask)) / len(by_channel)
    for mask in by_position:
        squares = sum((mask[p] * gap[c, p].item()) ** 2 for c in range(channels) for p in range(size))
        terms["positions"] += squares / (channels * sum(k * k for k in mask)) / len(by_position)
    return terms


@pytest.mark.parametrize("channels", [4, 3])
def test_the_terms_are_those_of_the_definition(channels: int):
    student, teacher = feature_map(1, channels), feature_map(2)
    loss = made(student, teacher, masks=3)
    found = totals(loss, student, teacher)
    with torch.no_grad():
        each = [naive(loss, student[n], teacher[n]) for n in range(3)]
    assert found.keys() == {"channels", "positions", "diversity"}
    for name, total in found.items():
        assert total.sum.item() == pytest.approx(sum(one[name] for one in each), rel=1e-4)
        assert total.count.item() == 3


def test_masks_that_are_the_same_everywhere_leave_the_mean_squared_error():
    student, teacher = feature_map(1), feature_map(2)
    loss = made(student, teacher)
    with torch.no_grad():
        for parameter in loss.parameters():
            parameter.zero_()  # all masks are a half
    found = totals(loss, student, teacher)
    mean = (student - teacher).square().mean().item()
    for name in ("channels", "positions"):
        assert (found[name].sum / found[name].count).item() == pytest.approx(mean, rel=1e-5)
    assert (found["diversity"].sum / 3).item() == pytest.approx(2.0)  # equal masks overlap wholly, in both kinds


def test_a_mask_is_divided_by_what_it_keeps():
    masks = torch.tensor([[[1.0, 0.0, 1.0], [0.0, 0.5, 0.0]]])
    squares = torch.tensor([[4.0, 8.0, 6.0]])
    assert under(masks.log(), squares).tolist() == [pytest.approx(((4 + 6) / 2 + 8) / 2)]


def test_a_mask_gains_nothing_by_being_small():
    """Divided by its sum it would, and all masks would vanish, and with them all distillation."""
    loud = torch.tensor([[[0.9, 0.1, 0.5], [0.2, 0.4, 0.8]]])
    squares = torch.tensor([[4.0, 8.0, 6.0]])
    assert under(loud.log() - 9, squares).item() == pytest.approx(under(loud.log(), squares).item())


@pytest.mark.parametrize("way", [-1.0, 1.0])
def test_selectors_as_large_as_can_be_have_finite_gradients(way: float):
    student, teacher = feature_map(1, 3).requires_grad_(), feature_map(2)
    loss = made(student, teacher)
    with torch.no_grad():
        loss.channel_selectors.fill_(way * 1e4)
        loss.position_selectors.fill_(way * 1e4)
        loss.value.bias.fill_(3.0)
    found = totals(loss, student, teacher)
    torch.stack([total.sum for total in found.values()]).sum().backward()
    assert all(math.isfinite(total.sum.item()) for total in found.values())
    assert found["channels"].sum > 0
    assert all(p.grad is not None and p.grad.isfinite().all() for p in loss.parameters())
    assert student.grad is not None
    assert student.grad.isfinite().all()
    assert student.grad.any()


def test_masks_that_share_nothing_do_not_overlap_and_equal_ones_do_wholly():
    apart = torch.tensor([[[1.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 1.0]]])
    assert overlap(apart.log()).item() == pytest.approx(0.0, abs=1e-6)
    assert overlap(apart[:, :1].log().expand(-1, 3, -1)).item() == pytest.approx(1.0)
    third = torch.tensor([[1.0, 0.0, 1.0, 0.0]])
    # pairs: 0, 2*1/4, 2*1/4
    assert overlap(torch.cat([apart[0], third]).log().unsqueeze(0)).item() == pytest.approx((0 + 0.5 + 0.5) / 3)


def test_diversity_is_multiplied_by_its_factor():
    student, teacher = feature_map(1), feature_map(2)
    once, twice = (totals(made(student, teacher, diversity=f), student, teacher) for f in (1.0, 2.0))
    assert twice["diversity"].sum.item() == pytest.approx(2 * once["diversity"].sum.item())
    assert twice["channels"].sum == once["channels"].sum


def test_masks_change_as_the_student_does_and_in_the_end_there_is_nothing_to_learn():
    student, teacher = feature_map(1), feature_map(2)
    loss = made(student, teacher)
    found, equal = totals(loss, student, teacher), totals(loss, teacher, teacher)
    assert found["diversity"].sum != equal["diversity"].sum
    assert equal["channels"].sum.item() == equal["positions"].sum.item() == 0.0


def test_all_parts_learn_and_the_teacher_does_not():
    student, teacher = feature_map(1, 3).requires_grad_(), feature_map(2)
    loss = made(student, teacher)
    torch.stack([total.sum for total in totals(loss, student, teacher).values()]).sum().backward()
    parts = {"align", "ask", "key", "value", "channel_selectors", "position_selectors"}
    assert {name.partition(".")[0] for name, _ in loss.named_parameters()} == parts
    assert all(p.grad is not None and p.grad.any() for p in loss.parameters())
    assert student.grad is not None
    assert student.grad.any()
    assert teacher.grad is None
    assert not list(made(teacher, teacher).align.parameters())


def test_a_run_all_in_half_precision_gives_nearly_the_same():
    student, teacher = feature_map(1), feature_map(2)
    exact = totals(made(student, teacher), student, teacher)
    half = totals(made(student, teacher).bfloat16(), student.bfloat16(), teacher.bfloat16())
    for name, total in exact.items():
        assert half[name].sum.item() == pytest.approx(total.sum.item(), rel=0.05)


def test_the_defaults_are_the_papers_for_detection():
    loss = AdaptiveMasking()
    assert (loss.masks, loss.diversity) == (6, 1.0)


def test_one_mask_is_refused():
    said = "masks=1 is below 2: masks are kept apart from each other, which takes two"
    with pytest.raises(ValueError, match=re.escape(said)):
        AdaptiveMasking(masks=1)


def test_other_strides_are_refused_with_what_to_do():
    with pytest.raises(ValueError, match=re.escape("give the loss `resize: student` or `resize: teacher`")):
        made(feature_map(1), feature_map(2)[..., :3])
