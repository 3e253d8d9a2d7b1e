from __future__ import annotations

from typing import Any

import pytest
import torch
from kdcore.taps import Taps
from tiny import task
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN as Library
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import box_iou
from two_stages import objects, two_stages

from kdcore_detection.boxes import clip
from kdcore_detection.models.faster_rcnn import FasterRCNN, is_region

SIZE = (64, 96)


@pytest.fixture
def image() -> Tensor:
    return torch.rand(2, 3, *SIZE, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def net() -> FasterRCNN:
    return two_stages().eval()


@pytest.fixture(scope="module")
def pair() -> tuple[FasterRCNN, Any]:
    """One of ours and one of torchvision's with the same weights, in eval mode."""
    torch.manual_seed(0)
    backbone = resnet_fpn_backbone(
        backbone_name="resnet18", weights=None, norm_layer=nn.BatchNorm2d, trainable_layers=5
    )
    library = Library(
        backbone,
        box_head=TwoMLPHead(256 * 49, 32),
        box_predictor=FastRCNNPredictor(32, 4),
        rpn_pre_nms_top_n_test=200,
        rpn_post_nms_top_n_test=30,
        box_score_thresh=0.3,
    )
    with torch.no_grad():
        for part, loudness in ((library.rpn.head, 0.05), (library.roi_heads.box_predictor, 1.0)):
            for weight in part.parameters():
                weight.normal_(std=loudness)
    ours = FasterRCNN(classes=3, backbone="resnet18", head_width=32, proposals=30, candidates=200, score_threshold=0.3)
    ours.load_state_dict(library.state_dict())
    return ours.eval(), library.eval()


def test_the_signals_and_their_shapes(net: FasterRCNN, image: Tensor):
    found = net(image)
    anchors = 3 * (16 * 24 + 8 * 12 + 4 * 6 + 2 * 3 + 1 * 2)
    assert {name: tuple(x.shape) for name, x in found.items()} == {
        "objectness": (2, anchors), "rpn_deltas": (2, anchors, 4), "rpn_boxes": (2, anchors, 4),
        "anchors": (2, anchors, 4), "proposals": (2, 20, 4), "logits": (2, 20, 4), "deltas": (2, 20, 3, 4),
        "boxes": (2, 20, 3, 4), "features": (2, 20, 16), "pyramid.0": (2, 8, 16, 24), "pyramid.1": (2, 8, 8, 12),
        "pyramid.2": (2, 8, 4, 6), "pyramid.3": (2, 8, 2, 3),
    }  # fmt: skip
    assert not found["proposals"].requires_grad
    assert found["boxes"].requires_grad
    assert found["rpn_boxes"].requires_grad


def test_train_and_eval_mode_tell_the_same_signals(net: FasterRCNN, image: Tensor):
    evaluated, trained = net(image), net.train()(image)
    assert {key: x.shape for key, x in trained.items()} == {key: x.shape for key, x in evaluated.items()}


# ---- against torchvision


def of_library(library: Any, image: Tensor) -> tuple[Any, Any, Any]:
    """Its maps, its proposals and its detections, of an image that is neither resized nor normalised."""
    maps = library.backbone(image)
    sizes = [SIZE] * len(image)
    proposals, _ = library.rpn(ImageList(image, sizes), maps)
    detections, _ = library.roi_heads(maps, proposals, sizes)
    return maps, proposals, detections


def test_proposals_are_torchvision_s(pair: tuple[FasterRCNN, Any], image: Tensor):
    ours, library = pair
    with torch.no_grad():
        found, (_, proposals, _) = ours(image)["proposals"], of_library(library, image)
    for mine, theirs in zip(found, proposals, strict=True):
        assert 5 < len(theirs) <= 30
        torch.testing.assert_close(mine[: len(theirs)], theirs, rtol=1e-4, atol=1e-3)
        assert not mine[len(theirs) :].any()


def test_detections_are_torchvision_s(pair: tuple[FasterRCNN, Any], image: Tensor):
    ours, library = pair
    with torch.no_grad():
        signals, (_, _, theirs) = ours(image), of_library(library, image)
        found = ours.detections({**signals, "boxes": clip(signals["boxes"], *SIZE)})
    for n, expected in enumerate(theirs):
        count = len(expected["scores"])
        assert 3 < count < 100
        torch.testing.assert_close(found.scores[n, :count], expected["scores"], rtol=1e-3, atol=1e-4)
        assert torch.equal(found.labels[n, :count] + 1, expected["labels"])
        torch.testing.assert_close(found.boxes[n, :count], expected["boxes"], rtol=1e-3, atol=1e-2)
        assert (found.labels[n, count:] == -1).all()


def test_anchors_are_torchvision_s(pair: tuple[FasterRCNN, Any], image: Tensor):
    ours, library = pair
    with torch.no_grad():
        maps = list(library.backbone(image).values())
        expected = library.rpn.anchor_generator(ImageList(image, [SIZE] * 2), maps)
        assert torch.equal(ours(image)["anchors"], torch.stack(expected))


# ---- proposals


def test_proposals_lie_in_the_image_and_apart(net: FasterRCNN, image: Tensor):
    with torch.no_grad():
        proposals = net(image)["proposals"]
    assert is_region(proposals).sum(1).min() > 5
    assert torch.equal(proposals, clip(proposals, *SIZE))


def test_of_a_level_no_two_proposals_overlap_much(image: Tensor):
    net = two_stages(proposals=400).eval()
    with torch.no_grad():
        signals = net(image[:1])
    first = 3 * 16 * 24  # anchors of the finest level
    boxes = clip(signals["rpn_boxes"][0], *SIZE)
    at = [int((boxes - proposal).abs().sum(1).argmin()) for proposal in signals["proposals"][0]]
    of_finest = signals["proposals"][0][[i for i, anchor in enumerate(at) if anchor < first]]
    of_finest = of_finest[is_region(of_finest)]
    overlaps = box_iou(of_finest, of_finest) - torch.eye(len(of_finest))
    assert len(of_finest) > 20
    assert overlaps.max() <= 0.7


def test_fewer_boxes_than_proposals_are_padded(image: Tensor):
    net = two_stages(proposals=2000).eval()
    with torch.no_grad():
        signals = net(image)
        found = net.detections(signals)
    padded = ~is_region(signals["proposals"])
    assert padded.any()
    assert not signals["proposals"][padded].any()
    assert all(x.isfinite().all() for x in signals.values())
    assert found.scores.isfinite().all()


def test_what_is_said_of_padding_is_never_found(net: FasterRCNN):
    logits = torch.tensor([[[9.0, 0.0, 0.0, 0.0], [0.0, 9.0, 0.0, 0.0]]])
    proposals = torch.tensor([[[0.0] * 4, [10.0, 10.0, 30.0, 30.0]]])
    boxes = torch.tensor([10.0, 10.0, 30.0, 30.0]).expand(1, 2, 3, 4)
    found = net.detections({"logits": logits, "proposals": proposals, "boxes": boxes})
    assert found.labels[0, :2].tolist() == [1, -1]


def test_given_proposals_are_told_instead(net: FasterRCNN, image: Tensor):
    given = torch.tensor([[[4.0, 4.0, 40.0, 30.0], [0.0] * 4, [50.0, 8.0, 90.0, 60.0]]] * 2)
    with torch.no_grad():
        found, own = net(image, proposals=given), net(image)
        again = net(image, proposals=own["proposals"])
    assert found["logits"].shape == (2, 3, 4)
    assert torch.equal(found["proposals"], given)
    torch.testing.assert_close(again["logits"], own["logits"])
    torch.testing.assert_close(again["boxes"], own["boxes"])


def test_the_second_half_can_be_run_again_on_other_boxes(net: FasterRCNN, image: Tensor):
    with torch.no_grad():
        signals = net(image)
        found = net.roi([signals[f"pyramid.{i}"] for i in range(4)], signals["proposals"][:, 3:9])
    for name, x in found._asdict().items():
        torch.testing.assert_close(x, signals[name][:, 3:9])


def test_background_is_torchvision_s_first_class_and_ours_last(net: FasterRCNN, image: Tensor):
    with torch.no_grad():
        net.roi_heads["box_predictor"].cls_score.bias.copy_(torch.tensor([7.0, 0.0, 0.0, 3.0]))
        net.roi_heads["box_predictor"].cls_score.weight.zero_()
        logits = net(image)["logits"]
    assert logits[0, 0].tolist() == [0.0, 0.0, 3.0, 7.0]


# ---- the rest of the contract


def test_anchors_are_assigned_by_overlap():
    net, batch = two_stages().eval(), objects()
    assigned = task().signals(net, batch, {})["assigned"]
    with torch.no_grad():
        anchors = net(batch["image"])["anchors"][0]
    overlaps = box_iou(anchors, batch["boxes"][0])
    assert (assigned[2] == -1).all()
    assert set(assigned[0].tolist()) == {-2, -1, 0, 1}
    assert (assigned[0][overlaps.amax(1) < 0.3] < 1).all()
    for m in range(2):
        assert assigned[0, int(overlaps[:, m].argmax())] == m  # every box has its best anchor


def test_all_of_it_learns(image: Tensor):
    net = two_stages().train()
    found = net(image)
    sum(found[name].sum() for name in ("objectness", "rpn_deltas", "logits", "deltas")).backward()
    assert [name for name, p in net.named_parameters() if p.grad is None] == []


def test_taps(net: FasterRCNN, image: Tensor):
    taps = Taps(net, {"maps": "backbone.fpn.layer_blocks.*", "rows": "roi_heads.box_head"}, "net")
    with taps.armed():
        signals = net(image)
    found = taps.take()
    taps.remove()
    assert torch.equal(found["tap.maps@0"], signals["pyramid.0"])
    assert torch.equal(found["tap.rows"].view(2, 20, 16), signals["features"])


def test_images_of_one_channel():
    assert two_stages(channels=1)(torch.rand(1, 1, 64, 64))["logits"].shape == (1, 20, 4)


def test_the_deployed_net_answers_from_the_image(net: FasterRCNN, image: Tensor):
    boxes, scores, labels = task().deploy(net)(image).values()
    assert boxes.shape[1:] == (60, 4)  # pairs of 20 proposals and 3 classes, fewer than 100
    assert torch.equal(boxes, clip(boxes, *SIZE))
    assert scores.shape == labels.shape == boxes.shape[:2]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"classes": 0}, "classes=0: there must be at least one to find"),
        ({"proposals": 0}, "head_width=16 and proposals=0: give at least 1 of each"),
        ({"head_width": 0}, "head_width=0 and proposals=20: give at least 1 of each"),
        ({"size": 0.0}, r"size=0.0 and ratios=\[0.5, 1.0, 2.0\]: anchors have a size and ratios above 0"),
        ({"ratios": [1.0, -1.0]}, r"size=4.0 and ratios=\[1.0, -1.0\]: anchors have a size and ratios above 0"),
        ({"ratios": []}, r"size=4.0 and ratios=\[\]: anchors have a size and ratios above 0"),
        ({"nms_threshold": 1.5}, r"nms_threshold=1.5 is not in \[0, 1\]"),
        ({"candidates": 5}, "detections=100 and candidates=5: give at least 1, and as many candidates"),
    ],
)
def test_numbers_that_cannot_be(given: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        two_stages(**given)


def test_an_image_that_is_no_multiple(net: FasterRCNN):
    message = r"the image is 60x96, and this FasterRCNN takes multiples of 32: .* to \[64, 96\]"
    with pytest.raises(ValueError, match=message):
        net(torch.rand(1, 3, 60, 96))
