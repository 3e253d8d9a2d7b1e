from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny import batch, detector
from torchvision.models.detection import retinanet_resnet50_fpn
from torchvision.models.detection.image_list import ImageList

from kdcore_detection.boxes import clip
from kdcore_detection.models.retinanet import RetinaNet


def test_torchvision_s_weights_give_torchvision_s_answers():
    torch.manual_seed(0)
    theirs = retinanet_resnet50_fpn(weights=None, weights_backbone=None, num_classes=3, score_thresh=0.02).eval()
    theirs.detections_per_img, theirs.topk_candidates = 100, 5000
    for name, weight in theirs.head.named_parameters():
        if name.endswith("weight") and (".cls_logits" in name or ".bbox" in name):
            torch.nn.init.normal_(weight, std=0.1)
    ours = RetinaNet(classes=3, candidates=5000, score_threshold=0.02).eval()
    assert list(ours.state_dict()) == list(theirs.state_dict())
    ours.load_state_dict(theirs.state_dict())
    image = torch.rand(2, 3, 64, 96)
    with torch.no_grad():
        signals = ours(image)
        maps = list(theirs.backbone(image).values())
        raw = theirs.head(maps)
        anchors = theirs.anchor_generator(ImageList(image, [(64, 96)] * 2), maps)
        torch.testing.assert_close(signals["logits"], raw["cls_logits"])
        torch.testing.assert_close(signals["deltas"], raw["bbox_regression"])
        assert torch.equal(signals["anchors"], torch.stack(anchors))
        boxes = theirs.box_coder.decode_single(raw["bbox_regression"].flatten(0, 1), torch.cat(anchors))
        torch.testing.assert_close(signals["boxes"].flatten(0, 1), boxes, atol=1e-3, rtol=1e-4)
        counts = [9 * one.shape[2] * one.shape[3] for one in maps]
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


def test_anchors_by_hand():
    net = detector("retinanet", size=2.0, scales=2, ratios=[0.25, 1.0])
    anchors = net(torch.zeros(1, 3, 64, 96))["anchors"][0]
    wide, wider, square, larger = anchors[4 * 13 : 4 * 14].tolist()  # at the point (8, 8)
    assert wide == [8 - 16, 8 - 4, 8 + 16, 8 + 4]  # 16 pixels, a quarter as high as wide
    assert wider == [8 - 22, 8 - 6, 8 + 22, 8 + 6]  # 22 = int(16 sqrt 2); 5.5 is rounded to even
    assert square == [0, 0, 16, 16]
    assert larger == [8 - 11, 8 - 11, 8 + 11, 8 + 11]


def test_the_number_of_anchors_is_that_of_the_outputs():
    signals = detector("retinanet", scales=1, ratios=[1.0])(batch(2)["image"])
    assert signals["logits"].shape[1] == 126


def test_thresholds_decide():
    """With a threshold of almost 0 far more anchors have a box."""
    given = batch(1)
    counts = []
    for above in (0.7, 0.05):
        net = detector("retinanet", above=above, below=0.04)
        counts.append(int((net.assign(net(given["image"]), given) >= 0).sum()))
    assert counts[1] > 3 * counts[0] > 0


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"size": 0.5}, "size=0.5, scales=3, .*: anchors are at least a stride wide"),
        ({"scales": 0}, "scales=0, .*: anchors are at least a stride wide, of one size at least"),
        ({"ratios": []}, r"ratios=\[\]: anchors are"),
        ({"ratios": [1.0, 0.0]}, "their ratios are above 0"),
        ({"above": 0.3}, r"below=0.4 and above=0.3: overlaps are in \(0, 1\], and `below` is not the larger one"),
        ({"below": 0.0}, "below=0.0 and above=0.5"),
    ],
)
def test_what_cannot_be_is_named(given: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        detector("retinanet", **given)
