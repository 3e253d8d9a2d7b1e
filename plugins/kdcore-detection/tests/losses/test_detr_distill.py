from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from kdcore.losses.base import Total
from scipy.optimize import linear_sum_assignment
from set_scene import CLASSES, LAYERS, QUERIES, SIZE, said, scene, with_ignored, with_last_unknown
from small_sets import small_detr, small_rt_detr
from torch import Tensor
from torchvision.ops import box_iou, generalized_box_iou

from kdcore_detection.losses.detr_distill import HungarianLogits, QueryPrior, TargetAwareFeatures
from kdcore_detection.losses.set import SetPrediction
from kdcore_detection.matching import match_objects
from kdcore_detection.models.detr import Detr

READ = ("layer_logits", "layer_boxes")


def means(found: dict[str, Total]) -> dict[str, float]:
    return {name: float(total.sum.detach()) / max(1, int(total.count)) for name, total in found.items()}


# ---- logits


def run(loss: HungarianLogits, student: Any, teacher: Any, batch: dict[str, Any] | None = None) -> dict[str, Total]:
    return loss(*({name: role[name] for name in READ} for role in (student, teacher)), batch or scene())


def shares(box: Tensor) -> Tensor:
    x1, y1, x2, y2 = box.unbind(-1)
    height, width = SIZE
    return torch.stack([(x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width, (y2 - y1) / height], -1)


def of_class(s: Tensor, t: Tensor, *, softmax: bool) -> tuple[float, float]:
    """The divergence of two predictions, and the cross-entropy that the matching pays."""
    if softmax:
        p, q = t.softmax(0), s.softmax(0)
        entropy = float(-(p * p.log()).sum())
        cross = float(-(p * q.log()).sum())
    else:
        p, q = t.sigmoid(), s.sigmoid()
        entropy = float(-(p * p.log() + (1 - p) * (1 - p).log()).sum())
        cross = float(-(p * q.log() + (1 - p) * (1 - q).log()).sum())
    return cross - entropy, cross


def slowly(student: Any, teacher: Any, batch: dict[str, Any], *, softmax: bool) -> dict[str, float]:
    """Pair by pair, from the layers both have."""
    layers = min(student["layer_logits"].shape[1], teacher["layer_logits"].shape[1])
    sums, counts = {"positive": 0.0, "negative": 0.0}, {"positive": 0, "negative": 0}
    finds = match_objects(
        teacher["layer_logits"], teacher["layer_boxes"], batch, softmax=softmax, l1=5.0, giou_weight=2.0
    )
    for n in range(3):
        for back in range(1, layers + 1):
            s, t = student["layer_logits"][n, -back], teacher["layer_logits"][n, -back]
            s_boxes, t_boxes = student["layer_boxes"][n, -back], teacher["layer_boxes"][n, -back]
            apart = 5 * (shares(s_boxes)[:, None] - shares(t_boxes)).abs().sum(-1)
            boxes = apart - 2 * generalized_box_iou(s_boxes, t_boxes)
            classes = [[of_class(a, b, softmax=softmax) for b in t] for a in s]
            cost = boxes.numpy() + np.array([[pair[1] for pair in row] for row in classes])
            left = list(range(len(s)))
            for kind, wanted in (("positive", True), ("negative", False)):
                columns = [q for q in range(len(t)) if bool(finds[n, -back, q] >= 0) is wanted]
                rows, chosen = linear_sum_assignment(cost[np.ix_(left, columns)])
                taken = [left[row] for row in rows]
                for q, k in zip(taken, (columns[c] for c in chosen), strict=True):
                    sums[kind] += classes[q][k][0] + float(boxes[q, k]) + 2
                    counts[kind] += 1
                left = [q for q in left if q not in taken]
    return {kind: layers * sums[kind] / max(1, counts[kind]) for kind in sums}


@pytest.mark.parametrize("classes", [CLASSES, CLASSES + 1])
@pytest.mark.parametrize(
    ("ours", "theirs"),
    [({}, {}), ({"layers": 1}, {"layers": 3}), ({"queries": 4}, {}), ({"queries": 8, "layers": 3}, {})],
)
def test_logits_pair_by_pair(classes: int, ours: Any, theirs: Any):
    student, teacher = said(1, classes=classes, **ours), said(2, classes=classes, **theirs)
    found = run(HungarianLogits(classes=CLASSES), student, teacher)
    expected = slowly(student, teacher, scene(), softmax=classes > CLASSES)
    assert means(found) == pytest.approx(expected, rel=1e-4)
    assert expected["positive"] > 0 < expected["negative"]


def test_pairs_are_counted():
    found = run(HungarianLogits(classes=CLASSES), said(1), said(2))
    assert {name: int(total.count) for name, total in found.items()} == {
        "positive": LAYERS * 4,
        "negative": LAYERS * (3 * QUERIES - 4),
    }


def test_the_order_of_the_teacher_s_queries_does_not_matter():
    teacher, order = said(2), torch.tensor([4, 2, 0, 5, 1, 3])
    moved = {name: teacher[name][:, :, order] for name in READ}
    loss = HungarianLogits(classes=CLASSES)
    assert means(run(loss, said(1), teacher)) == pytest.approx(means(run(loss, said(1), moved)), rel=1e-5)


@pytest.mark.parametrize("classes", [CLASSES, CLASSES + 1])
def test_an_equal_teacher_costs_nothing(classes: int):
    signals = said(3, classes=classes)
    found = means(run(HungarianLogits(classes=CLASSES), signals, signals))
    assert found == pytest.approx({"positive": 0.0, "negative": 0.0}, abs=1e-5)


def test_ignored_and_unknown_objects_make_no_positives():
    loss = HungarianLogits(classes=CLASSES)
    for change, objects in ((dict, 4), (with_ignored, 3), (with_last_unknown, 3)):
        found = run(loss, said(1), said(2), change(scene()))
        assert int(found["positive"].count) == LAYERS * objects
        assert int(found["negative"].count) == LAYERS * (3 * QUERIES - objects)


def test_weights():
    usual = means(run(HungarianLogits(classes=CLASSES), said(1), said(2)))
    weighed = means(run(HungarianLogits(classes=CLASSES, positive=3.0, negative=0.0), said(1), said(2)))
    assert weighed["positive"] == pytest.approx(3 * usual["positive"], rel=1e-5)
    assert weighed["negative"] == 0.0


def test_only_the_student_has_a_gradient():
    student, teacher = ({name: said(seed)[name].requires_grad_() for name in READ} for seed in (1, 2))
    found = run(HungarianLogits(classes=CLASSES), student, {name: x.detach() for name, x in teacher.items()})
    (found["positive"].sum + found["negative"].sum).backward()
    for leaf in student.values():
        assert leaf.grad is not None
        assert leaf.grad.isfinite().all()
        assert leaf.grad.flatten(3).any(-1).all()  # every query has its partner


def test_certain_predictions_are_no_nan():
    student, teacher = said(1), said(2)
    student["layer_logits"], teacher["layer_logits"] = 1e3 * student["layer_logits"], 1e3 * teacher["layer_logits"]
    student["layer_logits"].requires_grad_()
    found = run(HungarianLogits(classes=CLASSES), student, teacher)
    (found["positive"].sum + found["negative"].sum).backward()
    assert all(total.sum.isfinite() for total in found.values())
    assert student["layer_logits"].grad.isfinite().all()


@pytest.mark.parametrize("name", ["l1", "giou", "positive", "negative"])
def test_a_negative_weight(name: str):
    with pytest.raises(ValueError, match=f"{name}=-0.5 is below 0: it is a weight"):
        HungarianLogits(**{"classes": 3, name: -0.5})


def test_a_softmax_and_sigmoids():
    message = "one net's logits are a softmax with no-object, the other's are sigmoids: take two alike"
    with pytest.raises(ValueError, match=message):
        run(HungarianLogits(classes=CLASSES), said(1), said(2, classes=CLASSES + 1))


def test_logits_of_other_classes():
    with pytest.raises(ValueError, match="the logits have 3 classes, and the task has 7"):
        run(HungarianLogits(classes=7), said(1), said(2))


# ---- features


def looked_at(seed: int, channels: int, *, classes: int = CLASSES) -> dict[str, Tensor]:
    """A map and what a teacher says with queries as wide as it."""
    generator = torch.Generator().manual_seed(seed)
    signals = said(seed, classes=classes)
    return {
        "memory": 2 * torch.randn(3, channels, 4, 6, generator=generator),
        "queries": torch.randn(3, QUERIES, channels, generator=generator),
        **{name: signals[name] for name in ("logits", "boxes")},
    }


def features(loss: TargetAwareFeatures, student: Tensor, teacher: dict[str, Tensor], batch: Any = None) -> Total:
    return loss({"memory": student}, teacher, batch or scene())


def mask_slowly(teacher: dict[str, Tensor], n: int, objects: Tensor, *, softmax: bool, gamma: float) -> Tensor:
    psi, total = torch.zeros(4, 6), 0.0
    for q in range(QUERIES):
        logits = teacher["logits"][n, q]
        p = float((logits.softmax(0)[:-1] if softmax else logits.sigmoid()).max())
        overlap = float(box_iou(teacher["boxes"][n, q][None], objects).max())
        quality = p**gamma * overlap ** (1 - gamma)
        alike = (teacher["queries"][n, q][:, None, None] * teacher["memory"][n]).sum(0)
        psi += quality / (1 + (-alike / math.sqrt(len(teacher["memory"][n]))).exp())
        total += quality
    return psi / total


@pytest.mark.parametrize("gamma", [0.0, 0.5, 0.8])
@pytest.mark.parametrize("classes", [CLASSES, CLASSES + 1])
def test_features_by_hand(classes: int, gamma: float):
    teacher, student, batch = looked_at(1, 5, classes=classes), looked_at(2, 5)["memory"], scene()
    value = 0.0
    for n, objects in ((0, batch["boxes"][0]), (2, batch["boxes"][2, :1])):
        psi = mask_slowly(teacher, n, objects, softmax=classes > CLASSES, gamma=gamma)
        value += float((psi * (student[n] - teacher["memory"][n]).square()).mean())
    found = features(TargetAwareFeatures(classes=CLASSES, gamma=gamma), student, teacher)
    assert int(found.count) == 2
    assert float(found.sum) == pytest.approx(value, rel=1e-4)


def test_ignored_and_unknown_images_have_no_term():
    teacher, student, loss = looked_at(1, 5), looked_at(2, 5)["memory"], TargetAwareFeatures(classes=CLASSES)
    assert int(features(loss, student, teacher, with_last_unknown(scene())).count) == 1
    only = {**scene(), "box_ignore": torch.ones(3, 3, dtype=torch.bool)}
    found = features(loss, student.requires_grad_(), teacher, only)
    assert (float(found.sum.detach()), int(found.count)) == (0.0, 0)
    found.sum.backward()
    assert not student.grad.any()


@pytest.mark.parametrize("gamma", [0.0, 1.0])
def test_an_image_whose_boxes_nobody_knows_has_no_term_at_either_end_of_gamma(gamma: float):
    teacher, student, loss = (
        looked_at(1, 5),
        looked_at(2, 5)["memory"],
        TargetAwareFeatures(classes=CLASSES, gamma=gamma),
    )
    unknown = {**scene(), "boxes_known": torch.zeros(3, dtype=torch.bool)}
    found = features(loss, student, teacher, unknown)
    assert (float(found.sum), int(found.count)) == (0.0, 0)
    assert int(features(loss, student, teacher, with_last_unknown(scene())).count) == 1


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0])
def test_queries_far_from_every_object_are_no_nan(gamma: float):
    teacher = looked_at(1, 5)
    teacher["boxes"] = torch.full((3, QUERIES, 4), 1.0)
    found = features(TargetAwareFeatures(classes=CLASSES, gamma=gamma), looked_at(2, 5)["memory"], teacher)
    assert (float(found.sum), int(found.count)) == (0.0, 0)


def test_other_channels_go_through_a_trained_map():
    student, teacher = looked_at(2, 3)["memory"], looked_at(1, 5)
    loss = TargetAwareFeatures(classes=CLASSES)
    loss.setup({"student": {"memory": student}, "teacher": teacher}, {}, {}.__getitem__)
    found = features(loss, student.requires_grad_(), teacher)
    found.sum.backward()
    assert all(p.grad is not None and p.grad.any() for p in loss.parameters())
    assert student.grad.any()
    same = TargetAwareFeatures(classes=CLASSES)
    same.setup({"student": {"memory": teacher["memory"]}, "teacher": teacher}, {}, {}.__getitem__)
    assert not list(same.parameters())


def test_maps_of_another_size():
    loss, teacher = TargetAwareFeatures(classes=CLASSES), looked_at(1, 5)
    with pytest.raises(ValueError, match="give the loss `resize: student` or `resize: teacher`"):
        loss.setup({"student": {"memory": torch.zeros(3, 5, 2, 3)}, "teacher": teacher}, {}, {}.__getitem__)
    with pytest.raises(ValueError, match="give the loss `resize: student` or `resize: teacher`"):
        features(loss, torch.zeros(3, 5, 2, 3), teacher)


def test_a_map_that_the_queries_do_not_look_at():
    teacher = {**looked_at(1, 5), "queries": torch.zeros(3, QUERIES, 8)}
    message = "the teacher's map has 5 channels and its queries 8: bind a map that the decoder reads"
    with pytest.raises(ValueError, match=message):
        features(TargetAwareFeatures(classes=CLASSES), looked_at(2, 5)["memory"], teacher)


def test_gamma_is_a_share():
    with pytest.raises(ValueError, match=r"gamma=1.5 is not in \[0, 1\]"):
        TargetAwareFeatures(classes=3, gamma=1.5)


# ---- queries


@pytest.fixture(scope="module")
def pair() -> tuple[Detr, Detr]:
    """Student and teacher; the teacher is wider, and has more layers and queries."""
    torch.manual_seed(0)
    student: Any = small_detr()
    teacher: Any = small_detr(queries=9, options={"d_model": 24, "decoder_layers": 3})
    return student.eval(), teacher.eval().requires_grad_(False)


def set_up(*nets: Any) -> QueryPrior:
    torch.manual_seed(1)
    loss = QueryPrior(classes=CLASSES)
    loss.setup({}, {}, dict(zip(("student", "teacher"), nets, strict=True)).__getitem__)
    return loss


def prior(loss: QueryPrior, nets: tuple[Detr, Detr], batch: dict[str, Any]) -> dict[str, Total]:
    student, teacher = nets
    memory = student(batch["image"])["memory"]
    with torch.no_grad():
        said_by_teacher = teacher(batch["image"])
    return loss({"memory": memory}, {name: said_by_teacher[name] for name in ("logits", "boxes")}, batch)


def pictures() -> dict[str, Any]:
    return {**scene(), "image": torch.rand(3, 3, *SIZE, generator=torch.Generator().manual_seed(0))}


def test_it_is_the_set_loss_of_the_student_asked_by_the_teacher(pair: tuple[Detr, Detr]):
    (student, teacher), batch = pair, pictures()
    loss = set_up(student, teacher)
    found = means(prior(loss, pair, batch))
    with torch.no_grad():
        theirs = teacher(batch["image"])
        asked = loss.align(teacher.model.query_position_embeddings.weight).expand(3, -1, -1)
        answered = student.decode(student(batch["image"])["memory"], asked, batch["image"])
        assigned = match_objects(
            theirs["logits"][:, None], theirs["boxes"][:, None], batch, softmax=True, l1=5.0, giou_weight=2.0
        )
        plain = SetPrediction(classes=CLASSES)
        every = assigned.expand(-1, 2, -1)
        expected = means(plain.terms(answered["layer_logits"], answered["layer_boxes"], every, batch))
    assert answered["logits"].shape == (3, 9, 4)
    assert found == pytest.approx(expected, rel=1e-5)


def test_a_student_that_is_its_teacher_pays_what_the_last_layer_costs(pair: tuple[Detr, Detr]):
    _, teacher = pair
    batch = pictures()
    found = prior(set_up(teacher, teacher), (teacher, teacher), batch)
    with torch.no_grad():
        signals = teacher(batch["image"])
    own = SetPrediction(classes=CLASSES)(signals, {}, batch)
    # its layers before the last are matched as the last one here, and each for itself there
    assert float(found["l1"].sum) >= float(own["l1"].sum)
    assert int(found["class"].count) == int(own["class"].count)


def test_encoder_decoder_and_the_linear_map_learn_and_the_teacher_does_not(pair: tuple[Detr, Detr]):
    student, teacher = pair
    loss = set_up(student, teacher)
    found = prior(loss, pair, pictures())
    torch.stack([total.sum for total in found.values()]).sum().backward()
    assert loss.align.weight.grad.any()
    idle = [name for name, p in student.named_parameters() if p.grad is None]
    assert idle == ["model.query_position_embeddings.weight"]  # its own queries are not asked
    assert all(p.grad is None for p in teacher.parameters())
    student.zero_grad()


def test_equal_widths_need_no_map(pair: tuple[Detr, Detr]):
    student, _ = pair
    assert not list(set_up(student, small_detr().requires_grad_(False)).parameters())


@pytest.mark.parametrize("role", ["student", "teacher"])
def test_queries_that_the_encoder_chooses(pair: tuple[Detr, Detr], role: str):
    other = small_rt_detr()
    nets = (other, pair[1]) if role == "student" else (pair[0], other)
    message = f"the {role} is a RTDetr, and queries are handed over by `detection.detr` only"
    with pytest.raises(ValueError, match=message):
        set_up(*nets)


def test_nets_are_no_part_of_the_loss_and_go_when_the_stage_is_over(pair: tuple[Detr, Detr]):
    loss = set_up(*pair)
    assert loss.borrowed() == pair
    assert {name.partition(".")[0] for name, _ in loss.named_parameters()} <= {"align"}
    loss.close()
    with pytest.raises(ValueError, match="QueryPrior finds its nets in setup"):
        prior(loss, pair, pictures())


def test_without_setup(pair: tuple[Detr, Detr]):
    with pytest.raises(ValueError, match=r"QueryPrior finds its nets in setup\(\), which was not called"):
        prior(QueryPrior(classes=CLASSES), pair, pictures())
