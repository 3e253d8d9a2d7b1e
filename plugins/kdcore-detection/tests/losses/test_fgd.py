"""Focal and global distillation: its four terms, which cells are whose, what is known, trainable parts."""

from __future__ import annotations

import math
import re

import pytest
import torch
from kdcore.schedules import Progress, linear
from scene import HEIGHT, WIDTH, boxes_batch, feature_map, set_up, totals
from torch import Tensor

from kdcore_detection.losses.fgd import FocalGlobal, GlobalContext, attention, shares

PLAIN = {"foreground": 1.0, "background": 1.0, "attention": 1.0, "relation": 1.0}
SIZE = torch.Size([4, 6])


def made(student: Tensor, teacher: Tensor, **arguments: float) -> FocalGlobal:
    loss: FocalGlobal = set_up(FocalGlobal(**{**PLAIN, **arguments}), {"feature": student}, {"feature": teacher})
    return loss


def looks(x: Tensor, temperature: float) -> tuple[list[list[float]], list[float]]:
    """Where and in which channels one map (C, H, W) is strong, in plain Python."""
    channels, height, width = x.shape
    where = [
        [sum(abs(x[c, i, j].item()) for c in range(channels)) / channels for j in range(width)] for i in range(height)
    ]
    which = [sum(abs(v) for v in x[c].flatten().tolist()) / (height * width) for c in range(channels)]
    all_where = sum(math.exp(v / temperature) for row in where for v in row)
    all_which = sum(math.exp(v / temperature) for v in which)
    return (
        [[height * width * math.exp(v / temperature) / all_where for v in row] for row in where],
        [channels * math.exp(v / temperature) / all_which for v in which],
    )


def cells_of(box: list[float]) -> set[tuple[int, int]]:
    """Those of a map of 4 x 6 cells of 8 pixels that have some area in common with a box."""
    x1, y1, x2, y2 = box
    return {
        (i, j)
        for i in range(4)
        for j in range(6)
        if min(x2, 8 * j + 8) > max(x1, 8 * j) and min(y2, 8 * i + 8) > max(y1, 8 * i)
    }


def naive_focal(
    s: Tensor, t: Tensor, boxes: list[list[float]], temperature: float, ignored: list[list[float]]
) -> tuple[float, float]:
    """Foreground and background of one image (C, H, W) in float64, cell by cell."""
    where, which = looks(t, temperature)
    owned = sorted((cells_of(box) for box in boxes), key=len)
    hidden: set[tuple[int, int]] = set().union(*(cells_of(box) for box in ignored))
    free = 24 - len(hidden.union(*owned))
    objects = background = 0.0
    for i in range(4):
        for j in range(6):
            squares = sum(which[c] * (t[c, i, j] - s[c, i, j]).item() ** 2 for c in range(len(t)))
            smallest = next((cells for cells in owned if (i, j) in cells), None)
            if smallest is not None:
                objects += where[i][j] * squares / len(smallest)
            elif (i, j) not in hidden:
                background += where[i][j] * squares / free
    return objects, background


REAL = [[[1.0, 2.0, 30.0, 30.0], [9.0, 9.0, 15.0, 20.0]], [], [[30.0, 5.0, 50.0, 17.0]]]
"""The boxes of the batch that are neither padding nor ignored."""
IGNORED = [[], [], [[0.0, 0.0, 16.0, 16.0]]]


def test_the_focal_terms_are_those_of_the_definition():
    student, teacher = feature_map(1), feature_map(2)
    found = totals(made(student, teacher), student, teacher, boxes_batch())
    each = [naive_focal(student[n].double(), teacher[n].double(), REAL[n], 0.5, IGNORED[n]) for n in range(3)]
    for k, name in enumerate(("foreground", "background")):
        assert found[name].sum.item() == pytest.approx(sum(one[k] for one in each), rel=1e-5)
        assert found[name].count.item() == 3


def test_the_attention_term_is_that_of_the_definition():
    student, teacher = feature_map(1), feature_map(2)
    found = totals(made(student, teacher, temperature=2.0), student, teacher, boxes_batch())["attention"]
    truth = 0.0
    for n in range(3):
        (where, which), (their_where, their_which) = looks(student[n], 2.0), looks(teacher[n], 2.0)
        truth += sum(abs(where[i][j] - their_where[i][j]) for i in range(4) for j in range(6))
        truth += sum(abs(a - b) for a, b in zip(which, their_which, strict=True))
    assert found.sum.item() == pytest.approx(truth, rel=1e-5)
    assert found.count.item() == 3


def test_the_relation_term_is_at_first_the_squared_distance():
    student, teacher = feature_map(1), feature_map(2)
    found = totals(made(student, teacher), student, teacher, boxes_batch())["relation"]
    assert found.sum.item() == pytest.approx((student - teacher).square().sum().item(), rel=1e-5)


def test_the_context_block_adds_one_vector_an_image():
    torch.manual_seed(0)
    block = GlobalContext(4).double()
    torch.nn.init.normal_(block.change[3].weight)
    x = feature_map(3).double()
    found = block(x)
    for n in range(3):
        scores = [(block.look.weight[0, :, 0, 0] * x[n, :, i, j]).sum() for i in range(4) for j in range(6)]
        weights = torch.stack(scores).softmax(0)
        seen = sum(weights[6 * i + j] * x[n, :, i, j] for i in range(4) for j in range(6))
        hidden = block.change[0].weight @ seen + block.change[0].bias
        normed = (hidden - hidden.mean()) / (hidden.var(correction=0) + 1e-5).sqrt()
        change = block.change[3].weight @ normed.clamp(min=0)
        torch.testing.assert_close(found[n] - x[n], change.view(4, 1, 1).expand(4, 4, 6))


def test_cells_belong_to_the_smallest_box_and_those_of_a_box_alone_share_one():
    objects, background = shares(boxes_batch(), SIZE)
    large, small = cells_of(REAL[0][0]), cells_of(REAL[0][1])
    assert (len(large), len(small)) == (16, 2)
    for i in range(4):
        for j in range(6):
            share = 1 / 2 if (i, j) in small else 1 / 16 if (i, j) in large else 0.0
            assert objects[0, i, j].item() == pytest.approx(share)
    assert objects[2].sum().item() == pytest.approx(1.0)
    assert background.sum((1, 2)).tolist() == pytest.approx([1.0] * 3)
    assert not objects[1].any()  # no box


def test_cells_under_an_ignored_box_alone_are_neither():
    batch = boxes_batch()
    batch["boxes"][0, :2] = torch.tensor([[0.0, 0.0, 16.0, 8.0], [8.0, 0.0, 24.0, 16.0]])
    batch["box_labels"][0] = torch.tensor([1, 1, *[-100] * (batch["box_labels"].shape[1] - 2)])
    batch["box_ignore"][0] = False
    batch["box_ignore"][0, 1] = True
    objects, background = shares(batch, SIZE)
    alone = {(0, 2), (1, 1), (1, 2)}
    for i in range(4):
        for j in range(6):
            free = (i, j) not in alone | {(0, 0), (0, 1)}
            assert background[0, i, j].item() == pytest.approx(1 / 19 if free else 0.0)
            assert objects[0, i, j].item() == pytest.approx(1 / 2 if (i, j) in {(0, 0), (0, 1)} else 0.0)


def test_a_box_over_the_whole_image_leaves_no_background():
    batch = boxes_batch()
    batch["boxes"][1, 0] = torch.tensor([-5.0, -5.0, WIDTH + 5.0, HEIGHT + 5.0])
    batch["box_labels"][1, 0] = 3
    objects, background = shares(batch, SIZE)
    torch.testing.assert_close(objects[1], torch.full((4, 6), 1 / 24))
    assert not background[1].any()


def test_a_box_less_than_a_cell_has_a_cell():
    batch = boxes_batch()
    batch["boxes"][1, 0], batch["box_labels"][1, 0] = torch.tensor([17.0, 9.0, 18.0, 10.0]), 3
    objects, _ = shares(batch, SIZE)
    assert objects[1].nonzero().tolist() == [[1, 2]]
    assert objects[1, 1, 2] == 1


def test_cells_follow_the_size_of_the_map():
    objects, _ = shares(boxes_batch(), torch.Size([8, 12]))
    assert objects.shape == (3, 8, 12)
    assert objects[0].count_nonzero() == 8 * 8
    assert objects[0, 2, 2].item() == pytest.approx(1 / 6)  # the small box lies on 3 x 2 cells of 4 pixels


def test_attention_has_a_mean_of_one_and_flattens_with_temperature():
    x = feature_map(4)
    for temperature in (0.5, 100.0):
        where, which = attention(x, temperature)
        assert where.mean((1, 2)).tolist() == pytest.approx([1.0] * 3, rel=1e-5)
        assert which.mean(1).tolist() == pytest.approx([1.0] * 3, rel=1e-5)
    assert (where - 1).abs().max() < 0.1


def test_images_whose_boxes_nobody_knows_have_the_teachers_terms_only():
    student, teacher, batch = feature_map(1).requires_grad_(), feature_map(2), boxes_batch()
    loss = made(student, teacher)
    every = totals(loss, student, teacher, batch)
    batch["boxes_known"] = torch.tensor([True, False, False])
    found = totals(loss, student, teacher, batch)
    first = naive_focal(student[0].detach().double(), teacher[0].double(), REAL[0], 0.5, IGNORED[0])
    for name, truth in zip(("foreground", "background"), first, strict=True):
        assert found[name].sum.item() == pytest.approx(truth, rel=1e-5)
        assert found[name].count.item() == 1
    for name in ("attention", "relation"):
        assert found[name] == every[name]
    (gradient,) = torch.autograd.grad(found["background"].sum, student)
    assert gradient[0].any()
    assert not gradient[1:].any()


def test_nothing_known_is_nothing_over_nothing_with_a_graph():
    student, teacher = feature_map(1).requires_grad_(), feature_map(2)
    found = totals(made(student, teacher), student, teacher, {**boxes_batch(), "boxes_known": torch.zeros(3) > 0})
    for name in ("foreground", "background"):
        assert (found[name].sum.item(), found[name].count.item()) == (0.0, 0)
        (gradient,) = torch.autograd.grad(found[name].sum, student, retain_graph=True)
        assert not gradient.any()


def test_equal_maps_cost_nothing_also_once_the_block_is_trained():
    teacher = feature_map(2)
    loss = made(teacher, teacher)
    torch.nn.init.normal_(loss.context.change[3].weight)
    found = totals(loss, teacher.clone().requires_grad_(), teacher, boxes_batch())
    assert [total.sum.item() for total in found.values()] == [0.0] * 4


@pytest.mark.parametrize("name", PLAIN)
def test_each_factor_multiplies_its_term(name: str):
    student, teacher = feature_map(1), feature_map(2)
    once, thrice = (totals(made(student, teacher, **{name: f}), student, teacher, boxes_batch()) for f in (1.0, 3.0))
    for term in PLAIN:
        factor = 3.0 if term == name else 1.0
        assert thrice[term].sum.item() == pytest.approx(factor * once[term].sum.item(), rel=1e-6)


def test_the_defaults_are_the_papers_for_retinanet():
    loss = FocalGlobal()
    assert (loss.foreground, loss.background, loss.attention, loss.relation) == (1e-3, 5e-4, 1e-3, 5e-6)
    assert loss.temperature == 0.5


def test_other_channels_are_aligned_and_all_parts_learn():
    torch.manual_seed(0)
    student, teacher = feature_map(1, 3).requires_grad_(), feature_map(2, 6).requires_grad_()
    loss = made(student, teacher)
    torch.nn.init.normal_(loss.context.change[3].weight)
    found = totals(loss, student, teacher.detach(), boxes_batch())
    torch.stack([total.sum for total in found.values()]).sum().backward()
    assert {name.partition(".")[0] for name, _ in loss.named_parameters()} == {"align", "context"}
    assert all(p.grad is not None and p.grad.any() for p in loss.parameters())
    assert student.grad is not None
    assert student.grad.any()
    assert teacher.grad is None
    assert not list(made(teacher, teacher).align.parameters())


def test_the_temperature_may_be_a_schedule():
    student, teacher = feature_map(1), feature_map(2)
    loss = set_up(
        FocalGlobal(**PLAIN, temperature=linear(start=0.5, end=2.0)), {"feature": student}, {"feature": teacher}
    )
    loss.progress = Progress(1.0)
    known = totals(made(student, teacher, temperature=2.0), student, teacher, boxes_batch())
    found = totals(loss, student, teacher, boxes_batch())
    assert found["attention"].sum.item() == pytest.approx(known["attention"].sum.item())


def test_large_features_stay_finite():
    student, teacher = (1e4 * feature_map(k).sign() for k in (1, 2))
    student.requires_grad_()
    found = totals(made(student, teacher), student, teacher, boxes_batch())
    total = torch.stack([total.sum for total in found.values()]).sum()
    (gradient,) = torch.autograd.grad(total, student)
    assert total.isfinite()
    assert gradient.isfinite().all()


def test_a_temperature_of_zero_is_refused():
    with pytest.raises(ValueError, match=re.escape("temperature=0.0 is not above 0")):
        FocalGlobal(temperature=0.0)


def test_other_strides_are_refused_with_what_to_do():
    with pytest.raises(ValueError, match=re.escape("give the loss `resize: student` or `resize: teacher`")):
        made(feature_map(1), feature_map(2)[..., :3])


def test_data_without_boxes_are_refused():
    student = feature_map(1)
    with pytest.raises(KeyError, match="fgd reads the batch's `boxes`, which this data does not give"):
        made(student, student)({"feature": student}, {"feature": student}, {"image": torch.zeros(3, 3, 32, 48)})
