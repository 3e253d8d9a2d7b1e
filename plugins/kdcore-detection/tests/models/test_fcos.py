from __future__ import annotations

import pytest
import torch
from tiny import batch, detector
from torch import Tensor
from torchvision.models.detection import fcos_resnet50_fpn
from torchvision.models.detection.image_list import ImageList

from kdcore_detection.boxes import clip
from kdcore_detection.models.fcos import FCOS

LIMITS = {"detections": 100, "candidates": 5000, "score_threshold": 0.0, "nms_threshold": 0.6}


def test_torchvision_s_weights_give_torchvision_s_answers():
    torch.manual_seed(0)
    theirs = fcos_resnet50_fpn(weights=None, weights_backbone=None, num_classes=5, score_thresh=0.0).eval()
    for name, weight in theirs.head.named_parameters():
        if name.endswith("weight") and (".cls_logits" in name or ".bbox" in name):
            torch.nn.init.normal_(weight, std=0.1)
    ours = FCOS(classes=5, **LIMITS).eval()
    assert list(ours.state_dict()) == list(theirs.state_dict())
    ours.load_state_dict(theirs.state_dict())
    image = torch.rand(2, 3, 64, 96)
    with torch.no_grad():
        signals = ours(image)
        maps = list(theirs.backbone(image).values())
        raw = theirs.head(maps)
        anchors = theirs.anchor_generator(ImageList(image, [(64, 96)] * 2), maps)
        torch.testing.assert_close(signals["logits"], raw["cls_logits"])
        torch.testing.assert_close(signals["quality"], raw["bbox_ctrness"].squeeze(-1))
        assert torch.equal(signals["anchors"], torch.stack(anchors))
        boxes = theirs.box_coder.decode(raw["bbox_regression"], torch.stack(anchors))
        torch.testing.assert_close(signals["boxes"], boxes)
        counts = [one.shape[2] * one.shape[3] for one in maps]
        chosen = theirs.postprocess_detections(
            {name: list(value.split(counts, 1)) for name, value in raw.items()},
            [list(one.split(counts)) for one in anchors],
            [(64, 96)] * 2,
        )
        found = ours.detections({**signals, "boxes": clip(signals["boxes"], 64, 96)})
    for i, one in enumerate(chosen):
        n = len(one["scores"])
        assert n > 20
        torch.testing.assert_close(found.scores[i, :n], one["scores"])
        torch.testing.assert_close(found.boxes[i, :n], one["boxes"], atol=1e-3, rtol=1e-4)
        assert torch.equal(found.labels[i, :n], one["labels"])
        assert (found.scores[i, n:] == 0).all()


def test_the_score_is_a_root_of_class_and_quality():
    net = detector()
    signals = {"logits": torch.zeros(1, 2, 3), "quality": torch.tensor([[0.0, 100.0]])}
    scores: Tensor = net.scores(signals)
    torch.testing.assert_close(scores[0, :, 0], torch.tensor([0.5, 0.5**0.5]))


def test_quality_is_one_number_a_position():
    signals = detector()(batch(2)["image"])
    assert signals["quality"].shape == signals["logits"].shape[:2]


def test_distances_are_never_negative():
    net = detector()
    raw = net.finish("box", 0, net.backbone(batch(2)["image"]))
    assert raw.min() == 0
    assert raw.max() > 0


def test_reach_decides_the_level():
    """A box of 32x32 with sides 16 pixels from its middle: on the finest level where that reaches, else on the next."""
    given = {"boxes": torch.tensor([[[16.0, 16.0, 48.0, 48.0]]]), "box_labels": torch.zeros(1, 1, dtype=torch.int64)}
    image = torch.zeros(1, 3, 64, 96)
    for reach, start, end in ((4.0, 0, 96), (1.5, 96, 120)):
        net = detector(reach=reach)
        at = (net.assign(net(image), given)[0] == 0).nonzero().flatten()
        assert len(at) > 0
        assert start <= at.min() <= at.max() < end


@pytest.mark.parametrize("given", [{"radius": 0.0}, {"reach": -1.0}])
def test_what_cannot_be_is_named(given: dict[str, float]):
    with pytest.raises(ValueError, match=r"radius=.* and reach=.* must be above 0"):
        detector(**given)
