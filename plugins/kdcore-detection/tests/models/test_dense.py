"""What all dense detectors do alike; what is one's own is in its own file."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from kdcore.taps import Taps
from kdcore.task import normalise
from tiny import CLASSES, KINDS, batch, detector
from torch import Tensor, nn

from kdcore_detection.assign import BACKGROUND, IGNORED
from kdcore_detection.models.dense import boxes_at

PLACES = 96 + 24 + 6
POSITIONS = {"fcos": PLACES, "retinanet": 9 * PLACES, "gfl": PLACES}


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def image() -> Tensor:
    image: Tensor = batch(2)["image"]
    return image


def test_shapes(kind: str, image: Tensor):
    signals = detector(kind)(image)
    a = POSITIONS[kind]
    assert signals["logits"].shape == (2, a, CLASSES)
    assert signals["boxes"].shape == signals["anchors"].shape == (2, a, 4)
    assert signals["boxes"].dtype == signals["anchors"].dtype == torch.float32
    assert signals["boxes"].requires_grad
    assert not signals["anchors"].requires_grad


def test_train_and_eval_mode_give_the_same_signals(kind: str, image: Tensor):
    net = detector(kind).eval()
    scored = net(image)
    net.train()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):  # its statistics are meant to differ
            module.eval()
    taught = net(image)
    assert scored.keys() == taught.keys()
    assert all(torch.equal(scored[name], taught[name]) for name in scored)


def test_every_weight_learns(kind: str, image: Tensor):
    net = detector(kind)
    signals = net(image)
    sum(x.float().sum() for name, x in signals.items() if name != "anchors").backward()  # type: ignore[union-attr]
    assert [name for name, weight in net.named_parameters() if weight.grad is None] == []


def test_before_training_every_class_has_one_in_a_hundred(kind: str):
    bias = detector(kind).head.classification_head.cls_logits.bias
    torch.testing.assert_close(bias.sigmoid(), torch.full_like(bias, 0.01))


def test_positions_are_level_by_level_in_rows(kind: str, image: Tensor):
    net = detector(kind, towers=0).eval()
    k = POSITIONS[kind] // PLACES
    logits = net(image)["logits"]
    level, row, column, anchor = 1, 2, 3, k - 1
    raw = net.head.classification_head.cls_logits(net.backbone(image)[level])  # (N, K * C, 4, 6)
    expected = raw[:, anchor * CLASSES : (anchor + 1) * CLASSES, row, column]
    torch.testing.assert_close(logits[:, (96 + row * 6 + column) * k + anchor], expected)


# --- anchors


@pytest.mark.parametrize("size", [(64, 96), (96, 64)])
def test_anchors_of_another_size(kind: str, size: tuple[int, int]):
    net = detector(kind).eval()
    first = net(torch.zeros(1, 3, 64, 96))["anchors"]
    other = net(torch.zeros(2, 3, *size))["anchors"]
    again = net(torch.zeros(1, 3, 64, 96))["anchors"]
    assert torch.equal(first, again)
    last = other[0, (96 - 1) * POSITIONS[kind] // PLACES]  # of the finest level
    assert ((last[2:] + last[:2]) / 2 / 8 - torch.tensor([size[1] / 8 - 1, size[0] / 8 - 1])).abs().max() < 0.6


def test_level_sizes(kind: str):
    net = detector(kind)
    per_place = POSITIONS[kind] // PLACES
    assert net.level_sizes(64, 96) == [96 * per_place, 24 * per_place, 6 * per_place]
    deep = detector(kind, levels=[5, 6, 7])
    found = deep(torch.zeros(1, 3, 64, 96))["logits"].shape[1]
    assert sum(deep.level_sizes(64, 96)) == found
    assert deep.level_sizes(64, 96) == [6 * per_place, 2 * per_place, per_place]


def test_anchors_are_no_part_of_the_state(kind: str, image: Tensor):
    net = detector(kind)
    net(image)
    assert not [name for name in net.state_dict() if "anchor" in name or "cell" in name]
    assert copy.deepcopy(net)(image).keys() == net(image).keys()


def test_half_precision_keeps_boxes_whole(kind: str, image: Tensor):
    net = detector(kind).eval()
    whole = net(image)
    half = net.bfloat16()(image.bfloat16())
    assert half["logits"].dtype == torch.bfloat16
    assert half["boxes"].dtype == half["anchors"].dtype == torch.float32
    assert torch.equal(half["anchors"], whole["anchors"])


def test_a_box_at_a_point():
    anchors = torch.tensor([[4.0, 12.0, 12.0, 20.0]])  # of stride 8, around (8, 16)
    assert boxes_at(torch.tensor([[0.5, 1.0, 2.0, 0.0]]), anchors).tolist() == [[4.0, 8.0, 24.0, 16.0]]


# --- the head, from any layer on (CrossKD)


@pytest.mark.parametrize("branch", ["class", "box"])
@pytest.mark.parametrize("layer", [0, 1, 2])
def test_the_rest_of_the_head(kind: str, image: Tensor, branch: Any, layer: int):
    net = detector(kind, towers=2).eval()
    at = "backbone.fpn.layer_blocks.*" if layer == 0 else net.head_maps[branch][layer - 1]
    taps = Taps(net, {"maps": at}, "student")
    with taps.armed():
        signals = net(image)
    maps = list(taps.take().values())
    assert len(maps) == 3
    rest = net.finish(branch, layer, maps)
    if branch == "class":
        assert torch.equal(rest, signals["logits"])
    else:
        assert torch.equal(net.decode(rest, signals["anchors"]), signals["boxes"])


def test_a_head_without_towers(kind: str, image: Tensor):
    net = detector(kind, towers=0)
    assert net.head_maps == {"class": [], "box": []}
    assert torch.equal(net.eval().finish("class", 0, net.backbone(image)), net(image)["logits"])


def test_the_gradient_of_a_frozen_head_reaches_the_maps(kind: str, image: Tensor):
    net = detector(kind).eval().requires_grad_(False)
    maps = [one.requires_grad_() for one in net.backbone(image)]
    net.finish("box", 0, maps).float().square().sum().backward()
    assert all(one.grad is not None and one.grad.abs().sum() > 0 for one in maps)


# --- assignment


def test_positions_are_assigned_to_boxes_of_the_batch(kind: str):
    given, net = batch(4), detector(kind)
    assigned = net.assign(net(given["image"]), given)
    assert assigned.shape == (4, POSITIONS[kind])
    assert set(assigned[0].unique().tolist()) - {IGNORED} == {BACKGROUND, 0, 1}
    assert set(assigned[1].unique().tolist()) - {IGNORED} == {BACKGROUND, 0}
    assert set(assigned[2].unique().tolist()) == {BACKGROUND, IGNORED}  # its only box is ignored
    hidden = {**given, "boxes_known": torch.tensor([True, True, True, False])}
    assert (net.assign(net(given["image"]), hidden)[3] == IGNORED).all()


def test_assigned_anchors_lie_where_their_box_is(kind: str):
    given, net = batch(2), detector(kind)
    signals = net(given["image"])
    assigned = net.assign(signals, given)[0]
    x1, y1, x2, y2 = signals["anchors"][0].unbind(-1)
    for index in (0, 1):
        left, top, right, bottom = given["boxes"][0, index]
        x, y = ((x1 + x2) / 2)[assigned == index], ((y1 + y2) / 2)[assigned == index]
        assert ((x > left - 16) & (x < right + 16) & (y > top - 16) & (y < bottom + 16)).all()


# --- detections


def test_detections_are_the_best_boxes(kind: str, image: Tensor):
    net = detector(kind, score_threshold=0.0, nms_threshold=1.0, candidates=20_000, detections=20_000).eval()
    signals = net(image)
    found = net.detections(signals)
    scores = net.scores(signals)
    assert found.scores.shape == (2, POSITIONS[kind] * CLASSES)
    torch.testing.assert_close(found.scores[0], scores[0].flatten().sort(descending=True).values)
    best = int(scores[0].flatten().argmax())
    assert int(found.labels[0, 0]) == best % CLASSES
    assert torch.equal(found.boxes[0, 0], signals["boxes"][0, best // CLASSES])


# --- refusals


def test_an_image_of_another_size_is_refused(kind: str):
    words = f"the image is 60x100, and this {KINDS[kind].__name__} takes multiples of 32: set `size` of the data"
    with pytest.raises(ValueError, match=rf"{words} \(or of the crop\) to \[64, 96\]"):
        detector(kind)(torch.zeros(1, 3, 60, 100))


def test_fine_levels_take_finer_sizes(kind: str):
    assert detector(kind, levels=[2, 3])(torch.zeros(1, 3, 40, 56))["logits"].shape[0] == 1


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"classes": 0}, "classes=0: there must be at least one to find"),
        ({"width": 12}, "width=12 is no multiple of 8, the channels of a group"),
        ({"width": 0}, "width=0 is no multiple of 8"),
        ({"towers": -1}, "towers=-1 is below 0"),
        ({"score_threshold": 1.5}, r"score_threshold=1.5 is not in \[0, 1\]"),
        ({"nms_threshold": -0.1}, r"nms_threshold=-0.1 is not in \[0, 1\]"),
        ({"detections": 0}, "detections=0 and candidates=1000: give at least 1, and as many candidates"),
        ({"detections": 50, "candidates": 20}, "detections=50 and candidates=20: give at least 1"),
    ],
)
def test_what_cannot_be_is_named(kind: str, given: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        detector(kind, **given)


def test_statistics_of_the_backbone_s_weights_are_those_of_the_net(kind: str, monkeypatch: pytest.MonkeyPatch):
    import importlib

    module = importlib.import_module(f"kdcore_detection.models.{kind}")
    make = module.pyramid

    def pretend(**given: Any) -> Any:
        made = make(**given)
        made.statistics = ([0.5, 0.5, 0.5], [2.0, 2.0, 2.0])
        return made

    monkeypatch.setattr(module, "pyramid", pretend)
    net = detector(kind)
    assert torch.equal(normalise(net, torch.ones(1, 3, 2, 2)), torch.full((1, 3, 2, 2), 0.25))
    assert not [name for name in net.state_dict() if name.startswith("input_")]
