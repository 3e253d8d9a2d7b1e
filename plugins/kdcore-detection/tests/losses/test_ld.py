"""Localization distillation: the term, both regions position by position, what is known, refusals."""

from __future__ import annotations

import json
import math
import os
import re
import statistics
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from kdcore.schedules import Progress, linear
from scene import set_up, totals
from torch import Tensor
from torchvision.ops import distance_box_iou

from kdcore_detection.losses.ld import LocalizationDistillation, diou, edge_divergence

NET = tiny.detector("gfl", bins=5)


def signals(batch: dict[str, Any], seed: int = 1) -> dict[str, Tensor]:
    """Of the tiny detector, with other distributions."""
    with torch.no_grad():
        found = tiny.task().signals(NET, batch, {})
    shape = found["distribution"].shape
    return {**found, "distribution": 3 * torch.randn(shape, generator=torch.Generator().manual_seed(seed))}


def ready(student: dict[str, Tensor], **arguments: Any) -> LocalizationDistillation:
    loss: LocalizationDistillation = set_up(LocalizationDistillation(**arguments), student, {}, student=NET)
    return loss


def naive_terms(s: Tensor, t: Tensor, temperature: float) -> list[float]:
    """Of each position (A, 4, B), in plain Python."""

    def softened(logits: list[float]) -> list[float]:
        powers = [math.exp(x / temperature) for x in logits]
        return [p / sum(powers) for p in powers]

    def divergence(a: list[float], b: list[float]) -> float:
        p, q = softened(b), softened(a)
        return temperature**2 * sum(x * math.log(x / y) for x, y in zip(p, q, strict=True)) / len(p)

    return [
        sum(divergence(a, b) for a, b in zip(ours, theirs, strict=True)) / 4
        for ours, theirs in zip(s.double().tolist(), t.double().tolist(), strict=True)
    ]


def overlap(a: list[float], b: list[float]) -> float:
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    both = max(0.0, width) * max(0.0, height)
    return both / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both)


def middle(a: list[float]) -> tuple[float, float]:
    return (a[0] + a[2]) / 2, (a[1] + a[3]) / 2


def naive_diou(a: list[float], b: list[float]) -> float:
    apart = sum((p - q) ** 2 for p, q in zip(middle(a), middle(b), strict=True))
    diagonal = (max(a[2], b[2]) - min(a[0], b[0])) ** 2 + (max(a[3], b[3]) - min(a[1], b[1])) ** 2
    return overlap(a, b) - apart / diagonal


def around(boxes: list[list[float]], gamma: float) -> set[int]:
    """The positions of the tiny detector's 8 x 12, 4 x 6 and 2 x 3 points that are valuable for one of the boxes."""
    squares, levels = [], []
    for stride in (8, 16, 32):
        points = [(x, y) for y in range(0, tiny.HEIGHT, stride) for x in range(0, tiny.WIDTH, stride)]
        levels.append(range(len(squares), len(squares) + len(points)))
        squares += [[x - 4 * stride, y - 4 * stride, x + 4 * stride, y + 4 * stride] for x, y in points]
    found = set()
    for box in boxes:
        near: list[int] = []
        for level in levels:
            near += sorted(level, key=lambda a: math.dist(middle(squares[a]), middle(box)))[:9]
        overlaps = [overlap(squares[a], box) for a in near]
        threshold = statistics.mean(overlaps) + statistics.stdev(overlaps)
        found |= {a for a, square in enumerate(squares) if gamma * threshold <= naive_diou(square, box) <= threshold}
    return found


@pytest.mark.parametrize("gamma", [0.25, 0.6])
def test_both_regions_are_those_of_the_definition(gamma: float):
    batch = tiny.batch()
    student, teacher = signals(batch), signals(batch, 2)
    found = totals(ready(student, gamma=gamma, temperature=2.0), student, teacher, batch)
    real = [[[10.0, 12.0, 42.5, 50.0], [30.0, 8.0, 90.0, 60.0]], [[5.0, 5.0, 20.0, 21.5]], []]
    truth = {"main": [0.0, 0], "valuable": [0.0, 0]}
    for n in range(3):
        terms = naive_terms(student["distribution"][n], teacher["distribution"][n], 2.0)
        own = student["assigned"][n].tolist()
        regions = {"main": {a for a, box in enumerate(own) if box >= 0}}
        regions["valuable"] = {a for a in around(real[n], gamma) if own[a] == -1}
        for name, region in regions.items():
            truth[name][0] += sum(terms[a] for a in region)
            truth[name][1] += len(region)
    for name, (added, count) in truth.items():
        assert count > 3
        assert found[name].count.item() == count
        assert found[name].sum.item() == pytest.approx(added, rel=1e-5)


@pytest.mark.skipif("KDCORE_REFERENCE" not in os.environ, reason="KDCORE_REFERENCE is unset")
def test_it_agrees_with_independent_implementations():
    np = pytest.importorskip("numpy")
    folder = Path(os.environ["KDCORE_REFERENCE"])
    case = json.loads((folder / "losses.json").read_text(encoding="utf-8"))["localization_distillation"]
    with np.load(folder / "losses.npz", allow_pickle=False) as arrays:
        given = {name: torch.from_numpy(arrays[key]) for name, key in case["inputs"].items()}
    student = given[case["student"]].requires_grad_()
    terms = edge_divergence(student, given["teacher_bins"], case["params"]["temperature"])
    value = (terms * given["weight"]).sum() / case["params"]["avg_factor"]  # 4: the edges of a position
    (gradient,) = torch.autograd.grad(value, student)
    assert value.item() == pytest.approx(case["value"], rel=1e-5)
    assert gradient.norm().item() == pytest.approx(case["grad_norm"], rel=1e-5)


def test_the_term_of_a_position_is_the_mean_over_its_edges():
    batch = tiny.batch()
    student, teacher = signals(batch), signals(batch, 2)
    main = totals(ready(student), student, teacher, batch)["main"]
    edges = edge_divergence(student["distribution"], teacher["distribution"], 10.0)[student["assigned"] >= 0]
    assert (main.sum / main.count).item() == pytest.approx(edges.mean().item(), rel=1e-5)


def test_the_distance_iou_is_torchvisions():
    generator = torch.Generator().manual_seed(3)
    low, side = torch.rand(2, 7, 2, generator=generator) * 20, 1 + torch.rand(2, 7, 2, generator=generator) * 20
    a, b = torch.cat([low, low + side], -1)
    torch.testing.assert_close(diou(a.unsqueeze(1), b), distance_box_iou(a, b))
    assert diou(torch.zeros(4), torch.zeros(4)).item() == 0.0


def test_only_the_regions_get_a_gradient_and_the_teacher_gets_none():
    batch = tiny.batch()
    student, teacher = signals(batch), signals(batch, 2)
    leaf = student["distribution"].requires_grad_()
    found = totals(ready(student), student, teacher, batch)
    (main,) = torch.autograd.grad(found["main"].sum, leaf, retain_graph=True)
    (valuable,) = torch.autograd.grad(found["valuable"].sum, leaf)
    touched = main.flatten(2).any(2)
    assert torch.equal(touched, student["assigned"] >= 0)
    assert not (touched & valuable.flatten(2).any(2)).any()
    assert not valuable[2].any()
    assert teacher["distribution"].grad is None


def test_an_ignored_box_has_no_region_and_what_it_hides_is_in_none():
    batch = tiny.batch()
    ignored = totals(ready(signals(batch)), signals(batch), signals(batch, 2), batch)
    batch["box_ignore"][2] = False
    found = totals(ready(signals(batch)), signals(batch), signals(batch, 2), batch)
    for name in ("main", "valuable"):
        assert found[name].count > ignored[name].count
    batch["box_ignore"][:] = True
    hidden = totals(ready(signals(batch)), signals(batch), signals(batch, 2), batch)
    assert [total.count.item() for total in hidden.values()] == [0, 0]


@pytest.mark.parametrize("case", ["unknown", "without boxes"])
def test_nothing_to_find_is_nothing_over_nothing_with_a_graph(case: str):
    batch = tiny.batch()
    if case == "unknown":
        batch["boxes_known"] = torch.zeros(3, dtype=torch.bool)
    else:
        batch |= {"boxes": torch.zeros(3, 1, 4), "box_labels": torch.full((3, 1), -100)}
        batch["box_ignore"] = torch.zeros(3, 1, dtype=torch.bool)
    student = signals(batch)
    student["distribution"].requires_grad_()
    for total in totals(ready(student), student, signals(batch, 2), batch).values():
        assert (total.sum.item(), total.count.item()) == (0.0, 0)
        (gradient,) = torch.autograd.grad(total.sum, student["distribution"], retain_graph=True)
        assert not gradient.any()


def test_an_image_with_unknown_boxes_leaves_the_others_as_they_are():
    batch = tiny.batch()
    first = {name: x[:1] for name, x in batch.items()}
    known = totals(ready(signals(batch)), {k: x[:1] for k, x in signals(batch).items()},
                   {k: x[:1] for k, x in signals(batch, 2).items()}, first)  # fmt: skip
    batch["boxes_known"] = torch.tensor([True, False, False])
    found = totals(ready(signals(batch)), signals(batch), signals(batch, 2), batch)
    for name, total in known.items():
        assert found[name].count == total.count
        assert found[name].sum.item() == pytest.approx(total.sum.item(), rel=1e-6)


def test_parts_of_a_batch_add_up():
    batch = tiny.batch()
    student, teacher = signals(batch), signals(batch, 2)
    whole = totals(ready(student), student, teacher, batch)
    parts = [
        totals(ready(student), *({k: x[at] for k, x in given.items()} for given in (student, teacher, batch)))
        for at in (slice(0, 1), slice(1, 3))
    ]
    for name, total in whole.items():
        assert sum(part[name].count.item() for part in parts) == total.count.item()
        assert sum(part[name].sum.item() for part in parts) == pytest.approx(total.sum.item(), rel=1e-6)


def test_the_temperature_may_be_a_schedule():
    batch = tiny.batch()
    student, teacher = signals(batch), signals(batch, 2)
    loss = ready(student, temperature=linear(start=1.0, end=4.0))
    loss.progress = Progress(1.0)
    known = totals(ready(student, temperature=4.0), student, teacher, batch)["main"]
    assert totals(loss, student, teacher, batch)["main"].sum.item() == pytest.approx(known.sum.item(), rel=1e-6)


def test_the_defaults_are_the_papers():
    loss = LocalizationDistillation()
    assert (loss.temperature, loss.gamma) == (10.0, 0.25)


def test_the_student_is_no_part_of_the_loss():
    loss = ready(signals(tiny.batch()))
    assert not list(loss.modules())[1:]
    loss.close()
    assert loss._borrowed == ()


@pytest.mark.parametrize("gamma", [-0.1, 1.5, float("nan")])
def test_a_gamma_that_is_no_share_is_refused(gamma: float):
    said = f"gamma={gamma} is not in [0, 1]: it is a share of the overlap that ATSS asks for"
    with pytest.raises(ValueError, match=re.escape(said)):
        LocalizationDistillation(gamma=gamma)


def test_a_temperature_of_zero_is_refused():
    with pytest.raises(ValueError, match=re.escape("temperature=0.0 is not above 0")):
        LocalizationDistillation(temperature=0.0)


def test_a_student_without_distributions_is_refused():
    said = (
        "the student is a FCOS: localization distillation compares the distributions that `detection.gfl` gives, "
        "around the boxes that it assigns"
    )
    with pytest.raises(ValueError, match=re.escape(said)):
        set_up(LocalizationDistillation(), {}, {}, student=tiny.detector("fcos"))


def test_other_strides_are_refused_with_what_to_do():
    batch = tiny.batch()
    student, teacher = signals(batch), signals(batch, 2)
    said = "the student's `distribution` have shape (3, 126, 4, 5), the teacher's (3, 120, 4, 5): this loss compares"
    with pytest.raises(ValueError, match=re.escape(said)):
        totals(ready(student), student, {"distribution": teacher["distribution"][:, :120]}, batch)
