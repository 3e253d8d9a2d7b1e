"""Cross-image relations: in the batch and against memory, pixel by pixel."""

from __future__ import annotations

import math
import re
from typing import Any

import pytest
import torch
from kdcore import schedules
from torch import Tensor, nn

from kdcore_segmentation.losses.cirkd import CrossImage, CrossImageMemory


def directions(x: Tensor) -> list[Tensor]:
    """Of one map (C, H, W): its pixels as unit vectors, rows first; zeros stay zeros."""
    return [v / v.norm() if v.any() else 0 * v for v in x.double().flatten(1).T]


def divergence(teacher: list[Tensor], student: list[Tensor], temperature: float) -> Tensor:
    p, q = ((torch.stack(x) / temperature).exp() for x in (teacher, student))
    p, q = p / p.sum(), q / q.sum()
    return (p * (p / q).log()).sum()


def naive(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Image by image and pixel by pixel, in float64."""
    ours, theirs = [directions(x) for x in student], [directions(x) for x in teacher]
    found = []
    for i in range(len(ours)):
        for j in range(len(ours)):
            for a in range(len(ours[i])):
                s = [ours[i][a] @ b for b in ours[j]]
                t = [theirs[i][a] @ b for b in theirs[j]]
                found.append(divergence(t, s, temperature))
    return torch.stack(found).mean()


@pytest.mark.parametrize("temperature", [0.1, 1.0])
def test_value_and_gradient_are_those_of_the_definition(run, student: Tensor, teacher: Tensor, temperature: float):
    student, teacher = student[:2, :, :3, :2], teacher[:2, :3, :3, :2]
    ours, exact = student.clone().requires_grad_(), student.clone().requires_grad_()
    total = run(CrossImage(temperature=temperature), ours, teacher)
    truth = naive(exact, teacher, temperature)
    (total.sum / total.count).backward()
    truth.backward()
    assert (total.sum / total.count).item() == pytest.approx(truth.item(), rel=1e-5)
    assert total.count.item() == 2
    torch.testing.assert_close(ours.grad, exact.grad, rtol=1e-3, atol=1e-6)


def test_by_hand(run):
    # two images of one pixel: a softmax over one pixel says nothing
    assert run(CrossImage(), torch.randn(2, 3, 1, 1), torch.randn(2, 3, 1, 1)).sum.item() == 0.0
    # one image of two pixels: at a right angle to the student, alike to the teacher
    total = run(CrossImage(temperature=1.0), torch.eye(2).view(1, 2, 1, 2), torch.ones(1, 2, 1, 2))
    q = math.e / (1 + math.e)
    assert total.sum.item() == pytest.approx(-0.5 * math.log(2 * q) - 0.5 * math.log(2 * (1 - q)), rel=1e-5)


def test_images_are_compared_with_each_other(run, student: Tensor, teacher: Tensor):
    whole = run(CrossImage(), student, teacher).sum.item() / 3
    alone = sum(run(CrossImage(), student[i : i + 1], teacher[i : i + 1]).sum.item() for i in range(3)) / 3
    assert whole != pytest.approx(alone, rel=1e-2)
    assert CrossImage.relational


def test_patches_are_averaged_first(run, student: Tensor, teacher: Tensor):
    smaller = (nn.functional.avg_pool2d(x, 2) for x in (student, teacher))
    assert run(CrossImage(patch=2), student, teacher).sum.item() == run(CrossImage(), *smaller).sum.item()


def test_equal_maps_cost_nothing(run, teacher: Tensor):
    leaf = teacher.clone().requires_grad_()
    total = run(CrossImage(), leaf, 3 * teacher)
    total.sum.backward()
    assert total.sum.item() == pytest.approx(0.0, abs=1e-6)
    assert leaf.grad is not None
    assert leaf.grad.abs().max() < 1e-5


def test_a_scheduled_temperature_follows_the_progress(run, student: Tensor, teacher: Tensor):
    loss = CrossImage(temperature=schedules.linear(start=0.1, end=0.3))
    loss.progress = schedules.Progress(0.5)
    fixed = run(CrossImage(temperature=0.2), student, teacher)
    assert run(loss, student, teacher).sum.item() == pytest.approx(fixed.sum.item(), rel=1e-5)


def test_senseless_parameters_are_refused():
    with pytest.raises(ValueError, match="temperature=0 is not above 0"):
        CrossImage(temperature=0)
    with pytest.raises(ValueError, match="patch=0: pixels are averaged over at least 1 x 1 position"):
        CrossImage(patch=0)
    with pytest.raises(ValueError, match="temperature=-1 is not above 0"):
        CrossImageMemory(classes=5, temperature=-1)


@pytest.mark.parametrize(
    "name", ["pixel_queue", "region_queue", "pixels_per_image", "pixel_contrast", "region_contrast"]
)
def test_a_number_below_one_is_refused(name: str):
    with pytest.raises(ValueError, match=f"{name}=0 is below 1"):
        CrossImageMemory(classes=5, **{name: 0})  # type: ignore[arg-type]


def test_other_sizes_are_refused(run, student: Tensor, teacher: Tensor, labels: Tensor):
    with pytest.raises(ValueError, match=re.escape("`resize: student` or `resize: teacher`")):
        run(CrossImage(), student, teacher[..., :3])
    with pytest.raises(ValueError, match=re.escape("`resize: student` or `resize: teacher`")):
        remembering(student, teacher[..., :3])


# ---- memory


def remembering(student: Tensor, teacher: Tensor, **parameters: Any) -> CrossImageMemory:
    torch.manual_seed(0)
    given = {"pixel_queue": 200, "region_queue": 40, "pixel_contrast": 30, "region_contrast": 10, **parameters}
    loss = CrossImageMemory(classes=5, **given)
    loss.setup({"student": {"feature": student}, "teacher": {"feature": teacher}}, {}, lambda _: nn.Identity())
    return loss


def step(loss: CrossImageMemory, student: Tensor, teacher: Tensor, labels: Tensor, **more: Any) -> dict[str, Any]:
    found = loss({"feature": student}, {"feature": teacher}, {"labels": labels, **more})
    assert isinstance(found, dict)
    return found


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Tensor, Tensor]]:
    """What is drawn from the queues, in turn: pixels, regions, pixels, ..."""
    from kdcore_segmentation.losses.class_queue import ClassQueue

    found: list[tuple[Tensor, Tensor]] = []
    draw = ClassQueue.draw

    def recording(queue: ClassQueue, number: int) -> tuple[Tensor, Tensor]:
        found.append(draw(queue, number))
        return found[-1]

    monkeypatch.setattr(ClassQueue, "draw", recording)
    return found


@pytest.mark.parametrize("temperature", [0.1, 1.0])
def test_memory_value_and_gradient_are_those_of_the_definition(
    student: Tensor, teacher: Tensor, labels: Tensor, drawn: list[tuple[Tensor, Tensor]], temperature: float
):
    loss = remembering(student, teacher[:, :4], temperature=temperature)
    ours, exact = student.clone().requires_grad_(), student.clone().requires_grad_()
    totals = step(loss, ours, teacher[:, :4], labels)
    projected = loss.project(exact)
    for name, (keys, there) in zip(("pixel", "region"), drawn, strict=True):
        terms = []
        for s, t, image in zip(projected, teacher[:, :4], labels.flatten(1), strict=True):
            for a, (mine, its) in enumerate(zip(directions(s), directions(t), strict=True)):
                if image[a] >= 0:
                    known = [key.double() for key, is_there in zip(keys, there, strict=True) if is_there]
                    terms.append(divergence([its @ k for k in known], [mine @ k for k in known], temperature))
        assert totals[name].sum.item() == pytest.approx(torch.stack(terms).sum().item(), rel=1e-4)
        assert totals[name].count.item() == len(terms) == 3 * 24 - 8
        (gradient,) = torch.autograd.grad(totals[name].sum, ours, retain_graph=True)
        (truth,) = torch.autograd.grad(torch.stack(terms).sum(), exact, retain_graph=True)
        torch.testing.assert_close(gradient, truth, rtol=1e-3, atol=1e-4)


def test_as_many_are_drawn_of_each_class_and_absent_ones_are_not_there(
    student: Tensor, teacher: Tensor, labels: Tensor, drawn: list[tuple[Tensor, Tensor]]
):
    step(remembering(student, teacher), student, teacher, labels)
    (pixels, pixels_there), (regions, regions_there) = drawn
    assert (len(pixels), len(regions)) == (30, 10)
    assert pixels_there.view(5, 6).all(1).tolist() == [True, True, True, True, False]
    assert regions_there.view(5, 2).any(1).tolist() == [True, True, True, True, False]


def test_the_queues_hold_unit_vectors_of_the_teacher_by_class(student: Tensor, teacher: Tensor, labels: Tensor):
    loss = remembering(student, teacher, pixels_per_image=24)
    step(loss, student, teacher, labels)
    unit = teacher / teacher.norm(dim=1, keepdim=True)
    for label in range(5):
        wanted = unit.movedim(1, -1)[labels == label]
        assert loss.pixels.seen[label].item() == len(wanted)
        kept = loss.pixels.vectors[label, : len(wanted)]
        order, other = kept[:, 0].argsort(), wanted[:, 0].argsort()
        torch.testing.assert_close(kept[order], wanted[other])


def test_a_region_is_the_mean_of_a_class_in_one_image(student: Tensor, teacher: Tensor, labels: Tensor):
    loss = remembering(student, teacher)
    step(loss, student, teacher, labels)
    unit = teacher / teacher.norm(dim=1, keepdim=True)
    assert loss.regions.seen.tolist() == [3, 3, 2, 2, 0]
    means = [unit[n][:, labels[n] == 2].mean(1) for n in (1, 2)]
    wanted = torch.stack([m / m.norm() for m in means])
    torch.testing.assert_close(loss.regions.vectors[2, :2], wanted)


def test_an_image_adds_no_more_pixels_of_a_class_than_it_may(student: Tensor, teacher: Tensor, labels: Tensor):
    loss = remembering(student, teacher, pixels_per_image=2)
    step(loss, student, teacher, labels)
    assert loss.pixels.seen.tolist() == [6, 6, 4, 4, 0]


def test_which_pixels_are_added_is_random(student: Tensor, teacher: Tensor):
    labels = torch.zeros(3, 4, 6, dtype=torch.int64)
    first, second = (remembering(student, teacher, pixels_per_image=1) for _ in range(2))
    step(first, student, teacher, labels)
    step(first, student, teacher, labels)
    assert not torch.equal(first.pixels.vectors[0, :3], first.pixels.vectors[0, 3:6])
    torch.manual_seed(0)
    step(second, student, teacher, labels)
    again = remembering(student, teacher, pixels_per_image=1)
    torch.manual_seed(0)
    step(again, student, teacher, labels)
    assert torch.equal(again.pixels.vectors, second.pixels.vectors)


def test_earlier_batches_stay_in_memory(
    student: Tensor, teacher: Tensor, labels: Tensor, drawn: list[tuple[Tensor, Tensor]]
):
    loss = remembering(student, teacher)
    step(loss, student, teacher, torch.full_like(labels, 4))
    step(loss, student, teacher, torch.zeros_like(labels))
    there = drawn[2][1].view(5, 6).any(1)
    assert there.tolist() == [True, False, False, False, True]


def test_nothing_is_remembered_outside_of_training(student: Tensor, teacher: Tensor, labels: Tensor):
    loss = remembering(student, teacher).eval()
    step(loss, student, teacher, labels)
    assert not loss.pixels.seen.any()
    assert not loss.regions.seen.any()


def test_only_the_students_side_has_a_gradient(student: Tensor, teacher: Tensor, labels: Tensor):
    loss, leaf = remembering(student, teacher), student.clone().requires_grad_()
    live = teacher.clone().requires_grad_()
    totals = step(loss, leaf, live.detach(), labels)
    (totals["pixel"].sum + totals["region"].sum).backward()
    assert leaf.grad is not None
    assert leaf.grad.any()
    assert all(p.grad is not None and p.grad.any() for p in loss.project.parameters())
    assert {name.partition(".")[0] for name, _ in loss.named_parameters()} == {"project"}
    assert live.grad is None
    assert not loss.pixels.vectors.requires_grad


def test_a_resumed_run_goes_on_as_it_would_have(student: Tensor, teacher: Tensor, labels: Tensor):
    loss, resumed = remembering(student, teacher), remembering(student, teacher)
    step(loss, student, teacher, labels)
    resumed.load_state_dict(loss.state_dict())
    torch.manual_seed(7)
    there = step(loss, student, teacher, labels)
    torch.manual_seed(7)
    here = step(resumed, student, teacher, labels)
    assert all(torch.equal(here[name].sum, there[name].sum) for name in ("pixel", "region"))
    assert torch.equal(loss.pixels.vectors, resumed.pixels.vectors)


def test_the_mask_takes_pixels_away(student: Tensor, teacher: Tensor, labels: Tensor, mask: Tensor):
    loss = remembering(student, teacher)
    totals = step(loss, student, teacher, labels, mask=mask)
    kept = ((labels >= 0) & mask).sum().item()
    assert totals["pixel"].count.item() == totals["region"].count.item() == kept
    assert loss.regions.seen.sum().item() == sum(len(labels[n][mask[n] & (labels[n] >= 0)].unique()) for n in range(3))


def test_labels_are_resized_to_the_nearest(student: Tensor, teacher: Tensor, labels: Tensor):
    large = labels.repeat_interleave(2, 1).repeat_interleave(2, 2)
    found = []
    for given in (labels, large):
        loss = remembering(student, teacher)
        torch.manual_seed(1)
        found.append(step(loss, student, teacher, given)["pixel"].sum.item())
    assert found[0] == found[1]


def test_what_the_teacher_says_without_a_label_does_not_reach_the_memory(
    student: Tensor, teacher: Tensor, labels: Tensor
):
    found = []
    for rubbish in (0.0, math.nan):
        loss = remembering(student, teacher)
        torch.manual_seed(1)
        totals = step(loss, student, teacher.masked_fill((labels < 0).unsqueeze(1), rubbish), labels)
        found.append((totals["pixel"].sum, totals["region"].sum, loss.pixels.vectors, loss.regions.vectors))
    assert all(torch.equal(clean, spoilt) for clean, spoilt in zip(*found, strict=True))


def test_memory_of_half_precision_is_in_float32(student: Tensor, teacher: Tensor, labels: Tensor):
    loss = remembering(student, teacher)
    totals = step(loss, student.bfloat16(), teacher.bfloat16(), labels)
    assert totals["pixel"].sum.dtype == torch.float32
    assert loss.pixels.vectors.dtype == torch.float32
    assert totals["pixel"].sum.item() > 0


def test_memory_of_a_run_all_in_half_precision(student: Tensor, teacher: Tensor, labels: Tensor):
    found = []
    for dtype in (torch.float32, torch.bfloat16):
        loss = remembering(student, teacher).to(dtype)
        torch.manual_seed(1)
        found.append(step(loss, student.to(dtype), teacher.to(dtype), labels)["pixel"].sum.item())
        assert loss.pixels.vectors.dtype == dtype
        assert loss.pixels.seen.dtype == torch.int64
    assert found[1] == pytest.approx(found[0], rel=0.1)


def test_a_teacher_of_double_precision_meets_queues_of_float32(student: Tensor, teacher: Tensor, labels: Tensor):
    loss = remembering(student, teacher)
    assert step(loss, student, teacher.double(), labels)["region"].sum.dtype == torch.float32


def test_a_queue_too_short_for_a_batch_is_refused(student: Tensor, teacher: Tensor, labels: Tensor):
    loss = remembering(student, teacher, pixel_queue=40, pixels_per_image=16)
    with pytest.raises(ValueError, match="one batch adds up to 48 vectors of a class to a queue of 40"):
        step(loss, student, teacher, labels)


def test_a_batch_without_labels_is_refused(student: Tensor, teacher: Tensor):
    with pytest.raises(KeyError, match="cirkd_memory reads the batch's `labels`, which this data does not give"):
        remembering(student, teacher)({"feature": student}, {"feature": teacher}, {})


def test_the_defaults_are_the_papers():
    loss = CrossImageMemory(classes=19)
    assert (loss.temperature, loss.lengths, loss.draws) == (0.1, (20000, 2000), (216, 54))
    assert CrossImage().temperature == 0.1
