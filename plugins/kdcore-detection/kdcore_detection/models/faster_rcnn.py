"""Faster R-CNN: a net proposes boxes, and its second half tells what is in them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from kdcore.losses.functional import upcast
from kdcore.signals import Batch, Signals
from kdcore.task import set_input_statistics
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.rpn import RPNHead

from kdcore_detection.assign import by_iou, settle
from kdcore_detection.boxes import Weights, area, clip, decode, is_object
from kdcore_detection.detector import Detections, Detector, best_classes, check_selection, keep_best
from kdcore_detection.models.backbone import pyramid
from kdcore_detection.models.regions import pooled

LEVELS = [2, 3, 4, 5, 6]
"""Of the pyramid: proposals come from all of them, what is in a box from all but the last."""
SIDE = 7
"""Of the map that is pooled from a box."""
WEIGHTS: Weights = (10.0, 10.0, 5.0, 5.0)
"""What the second half's deltas are multiplied by, as in Fast R-CNN."""
OVERLAP = 0.7
"""Of two proposals of a level that overlap more the better one stays (section 3.3 of the paper)."""
SMALLEST = 1e-3
"""Pixels that the sides of a proposal have at least, as in torchvision."""


class Regions(NamedTuple):
    """What the second half says of K boxes of N images.

    Attributes:
        logits: (N, K, C + 1), background last.
        deltas: (N, K, C, 4), float32, of each class from the box, in the box's sides times :data:`WEIGHTS`.
        features: (N, K, E), from which both were told.
    """

    logits: Tensor
    deltas: Tensor
    features: Tensor


class FasterRCNN(Detector):
    """`backbone.body`, `backbone.fpn`, `rpn.head`, `roi_heads.box_head`, `roi_heads.box_predictor`, as in torchvision.

    Image (N, channels, H, W), both sides multiples of 32 -> of the first half ``objectness`` (N, A), ``rpn_deltas``
    (N, A, 4), ``anchors`` (N, A, 4) and ``rpn_boxes`` (N, A, 4); ``proposals`` (N, P, 4) without a graph, clipped to
    the image and padded with zeros; of the second half ``logits`` (N, P, C + 1), background last, ``deltas`` and
    ``boxes`` (N, P, C, 4) and ``features`` (N, P, E); ``pyramid.0`` to ``pyramid.3`` (N, width, h, w), from which other
    boxes can be told by :meth:`roi`. The score of a class is its softmax; P is the same in train and eval mode.
    ``assigned`` (N, A), which the task adds, is that of the anchors.

    Taps: ``backbone.fpn.layer_blocks.*``, the maps of levels 2 to 5, finest first; ``roi_heads.box_head``, rows of all
    proposals of all images. The state dict of torchvision's ``fasterrcnn_resnet50_fpn`` fits the defaults, background
    being its first class; its class 0 counts for it, so ``classes`` is 90 for COCO there.

    Args:
        classes: C; filled in from the task.
        channels: of the image; filled in from the data. Backbones of torchvision take 3.
        backbone: a classifier of torchvision, or one of timm, such as ``timm/resnet10t``.
        backbone_weights: of torchvision (``IMAGENET1K_V1``) or timm (the tag, ``a1_in1k``), fetched when the model is
            made; none by default, so that nothing is fetched. Their ``mean`` and ``std`` come along.
        width: channels of the pyramid.
        head_width: E, of the two layers over what is pooled from a box.
        size: sides of a level's square anchor, in strides.
        ratios: height to width of the anchors of a place.
        proposals: P, how many boxes of an image the second half looks at.
        candidates: how many of a level go into the choice of proposals, and of an image into that of detections.
        score_threshold: a detection at or below it is dropped.
        nms_threshold: of two boxes of a class that overlap more the better one stays.
        detections: how many of an image are kept at most.
        options: further keywords of the backbone; timm's ResNets take ``{channels: [16, 32, 64, 128]}``.

    Raises:
        ValueError: a backbone or numbers that cannot be.

    **Paper**: Ren et al., Faster R-CNN, 2015 (arXiv 1506.01497); the pyramid: Lin et al., 2016 (arXiv 1612.03144).
    **Deviation**: as many proposals in training as in testing, 300 as in section 3.3; torchvision takes 2000 and 1000.
    """

    def __init__(
        self,
        *,
        classes: int,
        channels: int = 3,
        backbone: str = "resnet50",
        backbone_weights: str | None = None,
        width: int = 256,
        head_width: int = 1024,
        size: float = 8.0,
        ratios: list[float] = [0.5, 1.0, 2.0],  # noqa: B006  read, never changed
        proposals: int = 300,
        candidates: int = 1000,
        score_threshold: float = 0.05,
        nms_threshold: float = 0.5,
        detections: int = 100,
        options: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        _check(classes, head_width, size, ratios, proposals)
        check_selection(score_threshold, nms_threshold, detections, candidates)
        self.backbone = pyramid(
            backbone=backbone,
            channels=channels,
            levels=LEVELS,
            width=width,
            weights=backbone_weights,
            options=options,
            coarser="pool",
        )
        if self.backbone.statistics is not None:
            set_input_statistics(self, *self.backbone.statistics)
        sides = tuple((int(size * stride),) for stride in self.backbone.strides)
        self._anchors = AnchorGenerator(sides, (tuple(ratios),) * len(sides))
        self.rpn = nn.ModuleDict({"head": RPNHead(width, len(ratios))})
        predictor = FastRCNNPredictor(head_width, classes + 1)
        self.roi_heads = nn.ModuleDict(
            {"box_head": TwoMLPHead(width * SIDE**2, head_width), "box_predictor": predictor}
        )
        self.classes, self.proposals, self.candidates = classes, proposals, candidates
        self.score_threshold, self.nms_threshold, self.limit = score_threshold, nms_threshold, detections

    def forward(self, image: Tensor, proposals: Tensor | None = None) -> Signals:
        """The signals, where ``proposals`` (N, P, 4) are given those of these boxes instead of the net's own.

        Raises:
            ValueError: the image's sides are no multiples of 32.
        """
        height, width = image.shape[-2:]
        self.backbone.check_size(image, type(self).__name__)
        maps: list[Tensor] = self.backbone(image)
        by_level = [
            (_laid_out(o, 1).squeeze(-1), _laid_out(d, 4)) for o, d in zip(*self.rpn["head"](maps), strict=True)
        ]
        objectness, deltas = (torch.cat(parts, 1) for parts in zip(*by_level, strict=True))
        anchors = self._anchors_of(height, width, maps).expand(image.shape[0], -1, -1)
        rpn_boxes = decode(deltas, anchors)
        if proposals is None:
            sizes = [len(one[0]) for one, _ in by_level]
            proposals = self._propose(objectness.detach(), clip(rpn_boxes.detach(), height, width), sizes)
        regions = self.roi(maps[:-1], proposals)
        return {
            "objectness": objectness,
            "rpn_deltas": deltas,
            "rpn_boxes": rpn_boxes,
            "anchors": anchors,
            "proposals": proposals,
            "boxes": decode(regions.deltas, proposals.unsqueeze(2), WEIGHTS),
            **regions._asdict(),
            **{f"pyramid.{i}": level for i, level in enumerate(maps[:-1])},
        }

    def roi(self, levels: Sequence[Tensor], boxes: Tensor) -> Regions:
        """The second half of :meth:`forward`, which can be run again on other boxes.

        Args:
            levels: ``pyramid.0`` to ``pyramid.3``.
            boxes: (N, K, 4), inside the image.
        """
        head: Any = self.roi_heads["box_head"]
        # a loss runs this without autocast, on maps that were made with it
        features = head(pooled(levels, boxes, finest=LEVELS[0], side=SIDE).to(head.fc6.weight.dtype))
        scores, deltas = self.roi_heads["box_predictor"](features)
        # torchvision's background is the first class
        logits = torch.cat([scores[:, 1:], scores[:, :1]], 1)
        of_class = upcast(deltas)[:, 4:].reshape(*boxes.shape[:2], self.classes, 4)
        n, k = boxes.shape[:2]
        return Regions(logits.view(n, k, -1), of_class, features.view(n, k, -1))

    def assign(self, signals: Signals, batch: Batch) -> Tensor:
        anchors = signals["anchors"][0]
        return settle(by_iou(anchors, batch["boxes"], is_object(batch), above=0.7, below=0.3), anchors, batch)

    def detections(self, signals: Signals) -> Detections:
        scores = signals["logits"].float().softmax(-1)[..., :-1] * is_region(signals["proposals"]).unsqueeze(-1)
        found = best_classes(scores, signals["boxes"], self.candidates)
        return keep_best(
            found, score_threshold=self.score_threshold, nms_threshold=self.nms_threshold, limit=self.limit
        )

    def _propose(self, objectness: Tensor, boxes: Tensor, sizes: list[int]) -> Tensor:
        """The best boxes of every level that do not overlap, and the best P of these: (N, P, 4)."""
        x1, y1, x2, y2 = boxes.unbind(-1)
        real = (x2 - x1 >= SMALLEST) & (y2 - y1 >= SMALLEST)
        scores = objectness.float().sigmoid() * real
        parts, start = [], 0
        for level, size in enumerate(sizes):
            best, at = scores[:, start : start + size].topk(min(self.candidates, size))
            chosen = boxes[:, start : start + size].gather(1, at.unsqueeze(-1).expand(-1, -1, 4))
            parts.append(Detections(chosen, best, torch.full_like(at, level)))
            start += size
        every = Detections(*(torch.cat(columns, 1) for columns in zip(*parts, strict=True)))
        return keep_best(every, score_threshold=0.0, nms_threshold=OVERLAP, limit=self.proposals).boxes

    def _anchors_of(self, height: int, width: int, maps: Sequence[Tensor]) -> Tensor:
        """(A, 4), float32."""
        grids = [list(level.shape[-2:]) for level in maps]
        self._anchors.set_cell_anchors(torch.float32, maps[0].device)
        strides: Any = [[height // rows, width // columns] for rows, columns in grids]
        return torch.cat(self._anchors.grid_anchors(grids, strides))


def is_region(proposals: Tensor) -> Tensor:
    """Which proposals are no padding: (N, P, 4) -> bool (N, P)."""
    return area(proposals) > 0


def _laid_out(maps: Tensor, size: int) -> Tensor:
    """(N, anchors of a place * size, h, w) -> (N, A, size)."""
    return maps.permute(0, 2, 3, 1).reshape(maps.shape[0], -1, size)


def _check(classes: int, head_width: int, size: float, ratios: Sequence[float], proposals: int) -> None:
    if classes < 1:
        raise ValueError(f"classes={classes}: there must be at least one to find")
    if head_width < 1 or proposals < 1:
        raise ValueError(f"head_width={head_width} and proposals={proposals}: give at least 1 of each")
    if not size > 0 or not ratios or min(ratios) <= 0:
        raise ValueError(f"size={size} and ratios={list(ratios)}: anchors have a size and ratios above 0")
