"""What every loss of the core promises, whichever it is."""

from __future__ import annotations

import math
import re

import pytest
import torch
from torch import Tensor

from kdcore.builtin import kdcore_register
from kdcore.losses.base import Loss, Total
from kdcore.registry import Registry
from kdcore.signals import Batch


def run(loss: Loss, student: Tensor, teacher: Tensor, batch: Batch) -> Total:
    total = loss({"logits": student}, {"logits": teacher}, batch)
    assert isinstance(total, Total)
    return total


def mean_and_gradient(loss: Loss, student: Tensor, teacher: Tensor, batch: Batch) -> tuple[float, Tensor]:
    leaf = student.clone().requires_grad_()
    total = run(loss, leaf, teacher, batch)
    value = total.sum / total.count
    value.backward()
    assert leaf.grad is not None
    return value.item(), leaf.grad


def test_the_registered_losses_are_these_ones():
    registry = Registry()
    kdcore_register(lambda kind, name, target: registry.add("kdcore", kind, name, target))
    for name in registry.names("loss"):
        component = registry.get("loss", name)
        assert component is not None
        cls = component.load()
        assert isinstance(cls, type)
        assert issubclass(cls, Loss)
        # `check` must see without torch what the class says with it
        assert component.literal("needs") == cls.needs
        assert all(p.annotation and not p.required for p in component.parameters().values())
        assert "temperature" not in component.parameters() or (
            component.parameters()["temperature"].annotation == "Scheduled"
        )
        text = component.documentation()
        assert "**Shape**" in text
        assert "**Reduction**" in text
        assert "Raises:" in text


def test_the_losses_name_what_they_need(loss: Loss):
    paired = {"student.logits", "teacher.logits"}
    assert loss.needs == ({"student.logits"} if type(loss).__name__ == "CrossEntropy" else paired)


def test_zero_and_stationary_where_the_student_equals_the_teacher(paired_loss: Loss, teacher: Tensor, labels: Tensor):
    value, gradient = mean_and_gradient(paired_loss, teacher, teacher, {"labels": labels})
    assert value == pytest.approx(0.0, abs=2e-7)
    assert gradient.abs().max().item() <= 1e-7


def test_positive_elsewhere(paired_loss: Loss, student: Tensor, teacher: Tensor, labels: Tensor):
    value, gradient = mean_and_gradient(paired_loss, student, teacher, {"labels": labels})
    assert value > 0.05
    assert gradient.norm().item() > 1e-3


def test_a_step_along_the_gradient_lowers_it(loss: Loss, student: Tensor, teacher: Tensor, labels: Tensor):
    batch = {"labels": labels}
    before, gradient = mean_and_gradient(loss, student, teacher, batch)
    after, _ = mean_and_gradient(loss, student - 0.05 * gradient / gradient.norm(), teacher, batch)
    assert after < before


def test_a_teacher_with_a_graph_keeps_it_and_one_without_gets_none(
    paired_loss: Loss, student: Tensor, teacher: Tensor, labels: Tensor
):
    live = teacher.clone().requires_grad_()
    run(paired_loss, student.clone().requires_grad_(), live, {"labels": labels}).sum.backward()
    assert live.grad is not None
    assert live.grad.norm().item() > 1e-3

    run(paired_loss, student.clone().requires_grad_(), teacher, {"labels": labels}).sum.backward()
    assert teacher.grad is None


def test_inputs_are_left_as_they_were(loss: Loss, student: Tensor, teacher: Tensor, labels: Tensor, mask: Tensor):
    before = [x.clone() for x in (student, teacher, labels, mask)]
    run(loss, student, teacher, {"labels": labels, "mask": mask})
    assert all(torch.equal(a, b) for a, b in zip(before, (student, teacher, labels, mask), strict=True))


@pytest.mark.parametrize("masked", [False, True])
def test_forward_counts_what_count_foretells(
    loss: Loss, student: Tensor, teacher: Tensor, labels: Tensor, mask: Tensor, masked: bool
):
    batch = {"labels": labels, **({"mask": mask} if masked else {})}
    foretold = loss.count(batch)
    total = run(loss, student, teacher, batch)
    assert foretold is not None
    assert foretold.item() == total.count.item()
    assert foretold.dtype == total.count.dtype == torch.int64
    assert total.sum.dtype == torch.float32


@pytest.mark.parametrize("masked", [False, True])
def test_sum_and_count_add_up_over_a_split_batch(
    loss: Loss, student: Tensor, teacher: Tensor, labels: Tensor, mask: Tensor, masked: bool
):
    batch = {"labels": labels, "weight": torch.rand(4, 5), **({"mask": mask} if masked else {})}
    whole = run(loss, student, teacher, batch)
    parts = [run(loss, student[at], teacher[at], {k: v[at] for k, v in batch.items()}) for at in ([0], [1, 2], [3])]
    assert sum(part.count.item() for part in parts) == whole.count.item()
    assert sum(part.sum.item() for part in parts) == pytest.approx(whole.sum.item(), rel=1e-6)


def test_the_order_of_the_batch_does_not_matter(loss: Loss, student: Tensor, teacher: Tensor, labels: Tensor):
    order = torch.tensor([2, 0, 3, 1])
    here, gradient = mean_and_gradient(loss, student, teacher, {"labels": labels})
    there, shuffled = mean_and_gradient(loss, student[order], teacher[order], {"labels": labels[order]})
    assert there == pytest.approx(here, rel=1e-6)
    torch.testing.assert_close(shuffled, gradient[order])


@pytest.mark.parametrize("rubbish", [float("nan"), float("inf"), -float("inf"), 1e30])
def test_what_stands_at_masked_positions_changes_nothing(
    loss: Loss, student: Tensor, teacher: Tensor, labels: Tensor, mask: Tensor, rubbish: float
):
    batch = {"labels": labels, "mask": mask}
    value, gradient = mean_and_gradient(loss, student, teacher, batch)
    left_out = ~mask.unsqueeze(-1)
    spoilt = mean_and_gradient(
        loss, student.masked_fill(left_out, rubbish), teacher.masked_fill(left_out, rubbish), batch
    )
    assert spoilt[0] == value
    assert torch.equal(spoilt[1], gradient)
    assert not gradient[~mask].any()


def test_padding_a_batch_changes_nothing(loss: Loss, student: Tensor, teacher: Tensor, labels: Tensor, mask: Tensor):
    value, gradient = mean_and_gradient(loss, student, teacher, {"labels": labels, "mask": mask})
    pad = torch.nn.functional.pad
    padded = mean_and_gradient(
        loss,
        pad(student, (0, 0, 0, 3)),
        pad(teacher, (0, 0, 0, 3)),
        {"labels": pad(labels, (0, 3), value=-100), "mask": pad(mask, (0, 3))},
    )
    assert padded[0] == pytest.approx(value, rel=1e-6)
    torch.testing.assert_close(padded[1][:, :5], gradient)


def test_an_empty_selection_gives_zero_and_a_gradient_of_zero(
    loss: Loss, student: Tensor, teacher: Tensor, labels: Tensor
):
    leaf = student.clone().requires_grad_()
    total = run(loss, leaf, teacher, {"labels": labels, "mask": torch.zeros(4, 5, dtype=torch.bool)})
    total.sum.backward()
    assert (total.sum.item(), total.count.item()) == (0.0, 0)
    assert leaf.grad is not None
    assert torch.equal(leaf.grad, torch.zeros_like(leaf))


def test_an_empty_batch_gives_zero_with_a_graph(loss: Loss):
    leaf = torch.zeros(0, 7, requires_grad=True)
    total = run(loss, leaf, torch.zeros(0, 7), {"labels": torch.zeros(0, dtype=torch.long)})
    total.sum.backward()
    assert (total.sum.item(), total.count.item()) == (0.0, 0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_signals_are_computed_in_float32(
    loss: Loss, student: Tensor, teacher: Tensor, labels: Tensor, dtype: torch.dtype
):
    batch = {"labels": labels}
    value, gradient = mean_and_gradient(loss, student.to(dtype), teacher.to(dtype), batch)
    exact, exact_gradient = mean_and_gradient(loss, student.to(dtype).float(), teacher.to(dtype).float(), batch)
    assert value == pytest.approx(exact, rel=1e-6)  # far below bfloat16's own 4e-3
    assert gradient.dtype == dtype
    torch.testing.assert_close(gradient, exact_gradient.to(dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("scale", [1e4, -1e4])
def test_extreme_signals_stay_finite(
    loss: Loss, student: Tensor, teacher: Tensor, labels: Tensor, dtype: torch.dtype, scale: float
):
    value, gradient = mean_and_gradient(
        loss, (scale * student.sign()).to(dtype), (scale * teacher.sign()).to(dtype), {"labels": labels}
    )
    assert math.isfinite(value)
    assert gradient.isfinite().all()


def test_dead_features_stay_finite(loss: Loss, teacher: Tensor, labels: Tensor):
    value, gradient = mean_and_gradient(loss, torch.zeros(4, 5, 7), teacher, {"labels": labels})
    assert math.isfinite(value)
    assert gradient.abs().max().item() < 10.0


def test_nan_where_it_counts_is_never_hidden(loss: Loss, student: Tensor, teacher: Tensor, labels: Tensor):
    spoilt = student.clone()
    spoilt[1, 2, 3] = float("nan")
    assert run(loss, spoilt, teacher, {"labels": labels}).sum.isnan()


def test_nan_of_a_teacher_is_never_hidden(paired_loss: Loss, student: Tensor, teacher: Tensor, labels: Tensor):
    spoilt = teacher.clone()
    spoilt[1, 2, 3] = float("nan")
    assert run(paired_loss, student, spoilt, {"labels": labels}).sum.isnan()


def test_the_class_axis_is_the_tasks(loss: Loss, student: Tensor, teacher: Tensor, labels: Tensor, mask: Tensor):
    batch = {"labels": labels, "mask": mask, "weight": torch.rand(4, 5)}
    value, gradient = mean_and_gradient(loss, student, teacher, batch)
    loss.class_axis = 1
    moved, moved_gradient = mean_and_gradient(loss, student.movedim(-1, 1), teacher.movedim(-1, 1), batch)
    assert moved == pytest.approx(value, rel=1e-6)
    torch.testing.assert_close(moved_gradient.movedim(1, -1), gradient)


def test_weights_multiply_terms(loss: Loss, student: Tensor, teacher: Tensor, labels: Tensor):
    plain = run(loss, student, teacher, {"labels": labels})
    doubled = run(loss, student, teacher, {"labels": labels, "weight": torch.full((4, 5), 2.0)})
    assert doubled.sum.item() == pytest.approx(2 * plain.sum.item(), rel=1e-6)
    assert doubled.count.item() == plain.count.item()


@pytest.mark.parametrize("name", ["mask", "weight"])
def test_a_mask_or_weight_that_does_not_fit_is_refused(
    loss: Loss, student: Tensor, teacher: Tensor, labels: Tensor, name: str
):
    with pytest.raises(ValueError, match=rf"`{name}` has shape \(4,\), the loss has one term for each of \(4, 5\)"):
        run(loss, student, teacher, {"labels": labels, name: torch.ones(4, dtype=torch.bool)})


@pytest.mark.parametrize("shape", [(4, 5, 6), (4, 6, 7), (1, 5, 7), (5, 7)])
def test_signals_of_different_shapes_are_refused_with_what_to_do(
    paired_loss: Loss, student: Tensor, labels: Tensor, shape: tuple[int, ...]
):
    said = rf"shape \(4, 5, 7\), the teacher's {re.escape(str(shape))}: .*`project:`.*`resize: student`"
    with pytest.raises(ValueError, match=said):
        run(paired_loss, student, torch.zeros(shape), {"labels": labels})


def test_nothing_in_a_loss_waits_for_the_device(
    loss: Loss, student: Tensor, teacher: Tensor, labels: Tensor, mask: Tensor
):
    # on the meta device there are no values: reading one, or selecting by a boolean mask, raises
    batch = {"labels": labels.to("meta"), "mask": mask.to("meta")}
    total = run(loss, student.to("meta").requires_grad_(), teacher.to("meta"), batch)
    total.sum.backward()
    assert total.sum.is_meta
    assert total.count.is_meta
    with pytest.raises(RuntimeError):
        total.count.item()


@pytest.mark.slow
@pytest.mark.parametrize("masked", [False, True])
def test_compiled_whole_it_gives_the_same(
    loss: Loss, student: Tensor, teacher: Tensor, labels: Tensor, mask: Tensor, masked: bool
):
    batch = {"labels": labels, **({"mask": mask} if masked else {})}
    value, gradient = mean_and_gradient(loss, student, teacher, batch)

    def step(s: Tensor) -> tuple[Tensor, Tensor]:
        return tuple(loss({"logits": s}, {"logits": teacher}, batch))

    torch.compiler.reset()
    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    leaf = student.clone().requires_grad_()
    sum_, count = compiled(leaf)
    (sum_ / count).backward()
    assert (sum_ / count).item() == pytest.approx(value, rel=1e-6)
    assert leaf.grad is not None
    torch.testing.assert_close(leaf.grad, gradient)
