from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from kdcore.losses.base import Total
from set_scene import CLASSES, LAYERS, QUERIES, SIZE, said, scene, with_ignored, with_last_unknown
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import box_iou, generalized_box_iou
from transformers.loss.loss_for_object_detection import HungarianMatcher, ImageLoss
from transformers.loss.loss_rt_detr import RTDetrLoss

from kdcore_detection.losses.set import SetPrediction, is_softmax
from kdcore_detection.matching import match_objects

SOFTMAX = {"classes": CLASSES + 1}
READ = ("layer_logits", "layer_boxes")


def run(loss: SetPrediction, signals: dict[str, Tensor], batch: dict[str, Any] | None = None) -> dict[str, Total]:
    return loss({name: signals[name] for name in READ}, {}, batch or scene())


def means(found: dict[str, Total]) -> dict[str, float]:
    return {name: float(total.sum.detach()) / max(1, int(total.count)) for name, total in found.items()}


def shares(boxes: Tensor) -> Tensor:
    x1, y1, x2, y2 = boxes.unbind(-1)
    height, width = SIZE
    return torch.stack([(x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width, (y2 - y1) / height], -1)


def as_the_library_takes_it(
    signals: dict[str, Tensor], batch: dict[str, Any]
) -> tuple[dict[str, Any], list[dict[str, Tensor]]]:
    """Outputs, with the layers before the last beside it, and one target an image."""
    layers = [
        {"logits": signals["layer_logits"][:, i], "pred_boxes": shares(signals["layer_boxes"][:, i])}
        for i in range(LAYERS)
    ]
    targets = []
    for boxes, labels in zip(batch["boxes"], batch["box_labels"], strict=True):
        real = labels >= 0
        targets.append({"class_labels": labels[real], "boxes": shares(boxes[real])})
    return {**layers[-1], "auxiliary_outputs": layers[:-1]}, targets


def added(found: dict[str, Tensor], name: str) -> float:
    """Over all layers."""
    return sum(float(value) for key, value in found.items() if key.startswith(name))


# ---- against the library, whose definitions are the same


@pytest.mark.parametrize("no_object", [0.1, 0.25])
def test_softmax_is_detr_s_loss(no_object: float):
    signals = said(1, **SOFTMAX)
    matcher = HungarianMatcher(class_cost=1, bbox_cost=5, giou_cost=2)
    library = ImageLoss(matcher, CLASSES, no_object, ["labels", "boxes"])
    theirs = library(*as_the_library_takes_it(signals, scene()))
    ours = means(run(SetPrediction(classes=CLASSES, no_object=no_object), signals))
    assert ours["class"] == pytest.approx(added(theirs, "loss_ce"), rel=1e-5)
    assert ours["l1"] == pytest.approx(5 * added(theirs, "loss_bbox"), rel=1e-5)
    assert ours["giou"] == pytest.approx(2 * added(theirs, "loss_giou"), rel=1e-5)


RT_DETR = SimpleNamespace(
    matcher_class_cost=2.0, matcher_bbox_cost=5.0, matcher_giou_cost=2.0, use_focal_loss=True, matcher_alpha=0.25,
    matcher_gamma=2.0, num_labels=CLASSES, weight_loss_vfl=1.0, weight_loss_bbox=5.0, weight_loss_giou=2.0,
    eos_coefficient=1e-4, focal_loss_alpha=0.75, focal_loss_gamma=2.0,
)  # fmt: skip


def test_sigmoids_are_rt_detr_s_loss_with_its_gradient():
    signals = said(2)
    ours_at, theirs_at = ({name: signals[name].clone().requires_grad_() for name in READ} for _ in range(2))
    theirs = RTDetrLoss(RT_DETR)(*as_the_library_takes_it(theirs_at, scene()))
    found = run(SetPrediction(classes=CLASSES), ours_at)
    ours = means(found)
    for name, key in (("class", "loss_vfl"), ("l1", "loss_bbox"), ("giou", "loss_giou")):
        assert ours[name] == pytest.approx(added(theirs, key), rel=1e-5)
    sum(theirs.values()).backward()
    torch.stack([total.sum / total.count for total in found.values()]).sum().backward()
    for name in READ:
        torch.testing.assert_close(ours_at[name].grad, theirs_at[name].grad, rtol=1e-4, atol=1e-6)


# ---- against what it says, query by query


def slowly(signals: dict[str, Tensor], batch: dict[str, Any], *, focal: bool) -> dict[str, float]:
    """Sums over layers, images and queries, without weights."""
    assigned = match_objects(
        signals["layer_logits"], signals["layer_boxes"], batch, softmax=False, l1=5.0, giou_weight=2.0
    )
    sums = {"class": 0.0, "l1": 0.0, "giou": 0.0}
    for n, layer, q in torch.cartesian_prod(torch.arange(3), torch.arange(LAYERS), torch.arange(QUERIES)).tolist():
        m = int(assigned[n, layer, q])
        if m == -2:
            continue
        box = signals["layer_boxes"][n, layer, q][None]
        overlap = 0.0
        if m >= 0:
            target = batch["boxes"][n, m][None]
            overlap = float(box_iou(box, target))
            sums["l1"] += float((shares(box) - shares(target)).abs().sum())
            sums["giou"] += 1 - float(generalized_box_iou(box, target))
        for c in range(CLASSES):
            x = float(signals["layer_logits"][n, layer, q, c])
            p = 1 / (1 + math.exp(-x))
            is_label = m >= 0 and int(batch["box_labels"][n, m]) == c
            if focal:
                of_p = 0.25 * (1 - p) ** 2 * -math.log(p) if is_label else 0.75 * p**2 * -math.log(1 - p)
            elif is_label:
                of_p = -overlap * (overlap * math.log(p) + (1 - overlap) * math.log(1 - p))
            else:
                of_p = 0.75 * p**2 * -math.log(1 - p)
            sums["class"] += of_p
    return sums


@pytest.mark.parametrize("change", [dict, with_ignored, with_last_unknown])
@pytest.mark.parametrize("sigmoid", ["varifocal", "focal"])
def test_sigmoids_by_hand(sigmoid: Any, change: Any):
    signals, batch = said(3), change(scene())
    found = run(SetPrediction(classes=CLASSES, sigmoid=sigmoid), signals, batch)
    expected = slowly(signals, batch, focal=sigmoid == "focal")
    for name, factor in (("class", 1.0), ("l1", 5.0), ("giou", 2.0)):
        assert float(found[name].sum) == pytest.approx(factor * expected[name], rel=1e-4)


def test_weights_multiply_their_terms_and_decide_the_matching():
    signals = said(3)
    found = run(SetPrediction(classes=CLASSES, l1=0.0, giou=0.0), signals)
    assert float(found["l1"].sum) == float(found["giou"].sum) == 0.0
    by_class = match_objects(
        signals["layer_logits"], signals["layer_boxes"], scene(), softmax=False, l1=0.0, giou_weight=0.0
    )
    usual = match_objects(
        signals["layer_logits"], signals["layer_boxes"], scene(), softmax=False, l1=5.0, giou_weight=2.0
    )
    assert not torch.equal(by_class, usual)
    again = SetPrediction(classes=CLASSES, l1=0.0, giou=0.0)
    known = again.terms(signals["layer_logits"], signals["layer_boxes"], by_class, scene())
    torch.testing.assert_close(found["class"].sum, known["class"].sum)


def test_softmax_leaves_out_ignored_queries():
    signals, batch = said(4, **SOFTMAX), with_ignored(scene())
    assigned = match_objects(
        signals["layer_logits"], signals["layer_boxes"], batch, softmax=True, l1=5.0, giou_weight=2.0
    )
    assert (assigned == -2).any()
    value = weights = 0.0
    for at in torch.cartesian_prod(torch.arange(3), torch.arange(LAYERS), torch.arange(QUERIES)).tolist():
        n, layer, q = at
        m = int(assigned[n, layer, q])
        if m > -2:
            label, weight = (int(batch["box_labels"][n, m]), 1000) if m >= 0 else (CLASSES, 100)
            value += LAYERS * weight * float(F.cross_entropy(signals["layer_logits"][n, layer, q], torch.tensor(label)))
            weights += weight
    found = run(SetPrediction(classes=CLASSES), signals, batch)["class"]
    assert float(found.sum) == pytest.approx(value, rel=1e-5)
    assert int(found.count) == weights


# ---- what counts


def test_boxes_count_objects():
    for change, number in ((dict, 4), (with_ignored, 3), (with_last_unknown, 3)):
        found = run(SetPrediction(classes=CLASSES), said(5), change(scene()))
        assert {name: int(total.count) for name, total in found.items()} == dict.fromkeys(
            ("class", "l1", "giou"), number
        )


def test_more_objects_than_queries_still_count():
    found = run(SetPrediction(classes=CLASSES), said(5, queries=2))
    assert int(found["l1"].count) == 4


def test_nothing_is_known():
    batch = {**scene(), "boxes_known": torch.zeros(3, dtype=torch.bool)}
    for signals in (said(6), said(6, **SOFTMAX)):
        leaves = {name: signals[name].clone().requires_grad_() for name in READ}
        found = run(SetPrediction(classes=CLASSES), leaves, batch)
        assert [(float(total.sum), int(total.count)) for total in found.values()] == [(0.0, 0)] * 3
        torch.stack([total.sum for total in found.values()]).sum().backward()
        assert all(leaf.grad is not None and not leaf.grad.any() for leaf in leaves.values())


@pytest.mark.parametrize("classes", [CLASSES, CLASSES + 1])
def test_images_without_objects_teach_that_there_is_nothing(classes: int):
    batch = {**scene(), "box_labels": torch.full((3, 3), -100), "boxes": torch.zeros(3, 3, 4)}
    signals = said(7, classes=classes)
    leaves = {name: signals[name].clone().requires_grad_() for name in READ}
    found = run(SetPrediction(classes=CLASSES), leaves, batch)
    assert [int(found[name].count) for name in ("l1", "giou")] == [0, 0]
    assert float(found["l1"].sum) == float(found["giou"].sum) == 0.0
    found["class"].sum.backward()
    gradient = leaves["layer_logits"].grad
    assert gradient is not None
    if classes == CLASSES:
        assert (gradient > 0).all()  # every class of every query becomes less likely
    else:
        assert (gradient[..., :-1] > 0).all()
        assert (gradient[..., -1] < 0).all()


def test_no_weight_for_no_object_leaves_only_what_is_found():
    signals = said(8, **SOFTMAX)
    found = run(SetPrediction(classes=CLASSES, no_object=0.0), signals)["class"]
    assert int(found.count) == 1000 * LAYERS * 4


def test_an_empty_box_of_a_net_is_no_nan():
    signals = said(9)
    signals["layer_boxes"][0, 0, 0] = 7.0
    leaves = {name: signals[name].clone().requires_grad_() for name in READ}
    found = run(SetPrediction(classes=CLASSES), leaves)
    torch.stack([total.sum for total in found.values()]).sum().backward()
    assert all(leaf.grad is not None and leaf.grad.isfinite().all() for leaf in leaves.values())


def test_boxes_learn_from_their_own_terms_only():
    signals = said(10)
    leaves = {name: signals[name].clone().requires_grad_() for name in READ}
    run(SetPrediction(classes=CLASSES), leaves)["class"].sum.backward()
    assert leaves["layer_boxes"].grad is None  # the target of varifocal loss is a number, not a way to the boxes


# ---- what it refuses


@pytest.mark.parametrize("name", ["l1", "giou", "no_object"])
def test_a_negative_weight(name: str):
    with pytest.raises(ValueError, match=f"{name}=-1.0 is below 0: it is a weight"):
        SetPrediction(**{"classes": 3, name: -1.0})


@pytest.mark.parametrize("weight", [1e-4, 0.0005])
def test_a_weight_of_no_object_that_would_round_to_0(weight: float):
    message = (
        f"no_object={weight} is too small: weights are counted in thousandths, and this one would be 0, by which "
        "background is never learned"
    )
    with pytest.raises(ValueError, match=message):
        SetPrediction(classes=3, no_object=weight)
    assert SetPrediction(classes=3, no_object=0.0006).no_object == 0.0006


def test_logits_of_other_classes():
    message = "the logits have 3 classes, and the task has 5: a set detector gives 5, or 6 with no-object last"
    with pytest.raises(ValueError, match=message):
        run(SetPrediction(classes=5), said(1))
    assert is_softmax(torch.zeros(1, 6), 5)
    assert not is_softmax(torch.zeros(1, 5), 5)
