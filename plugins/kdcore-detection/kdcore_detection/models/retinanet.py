"""RetinaNet: a detector with several anchors at every place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from kdcore.signals import Batch, Signals
from torch import Tensor, nn
from torchvision.ops.misc import Conv2dNormActivation

from kdcore_detection.assign import by_iou
from kdcore_detection.boxes import decode, is_object
from kdcore_detection.models.backbone import pyramid
from kdcore_detection.models.dense import Dense
from kdcore_detection.models.head import Branch, Head, check_head


class RetinaNet(Dense):
    """`backbone.body`, `backbone.fpn`, `head.classification_head`, `head.regression_head`; nine anchors a place.

    Image (N, channels, H, W), both sides multiples of 32 (of the stride of the coarsest level up to 5) ->
    ``logits`` (N, A, C), ``boxes`` (N, A, 4), ``deltas`` (N, A, 4), which are the boxes as the head gives them, and
    ``anchors`` (N, A, 4). The score of a class is ``sigmoid(logit)``.

    Taps: ``backbone.fpn.layer_blocks.*``, the maps of levels up to 5, finest first; ``backbone.fpn.extra_blocks.p6``;
    ``head.classification_head.conv.0`` (1, 2, ...) and ``head.regression_head.conv.0``, the towers' blocks, an
    activation for each level. The state dict of torchvision's ``retinanet_resnet50_fpn`` fits the defaults. Its mean
    and std are those of ImageNet; its class 0 stands for background, is never found, and counts in ``classes``. Files
    from before torchvision 0.13 name the pyramid and the towers otherwise: let torchvision load them.

    Args:
        classes: C; filled in from the task.
        channels: of the image; filled in from the data. Backbones of torchvision take 3.
        backbone: a classifier of torchvision, or one of timm, such as ``timm/resnet10t``.
        backbone_weights: of torchvision (``IMAGENET1K_V1``) or timm (the tag, ``a1_in1k``), fetched when the model is
            made; none by default, so that nothing is fetched. The ``mean`` and ``std`` of their training come along.
        levels: of the pyramid, in a row; level l has a stride of 2^l.
        width: channels of the pyramid and the head, a multiple of 8.
        towers: convolutions in each branch before its last one.
        size: sides of a level's smallest square anchor, in strides.
        scales: anchors of how many sizes, each ``2^(1/scales)`` times as wide as the one before it.
        ratios: height to width of the anchors of each size.
        above: an anchor that overlaps a box so much is the box's.
        below: one that overlaps every box less is background; what lies between is ignored.
        score_threshold: a detection at or below it is dropped.
        nms_threshold: of two boxes of a class that overlap more the better one stays.
        detections: how many of an image are kept at most.
        candidates: how many of an image go into non-maximum suppression at most.
        options: further keywords of the backbone; timm's ResNets take ``{channels: [16, 32, 64, 128]}``.

    Raises:
        ValueError: a backbone, levels or numbers that cannot be.

    **Paper**: Lin et al., Focal Loss for Dense Object Detection, 2017 (arXiv 1708.02002), section 4.
    **Deviation**: as in torchvision, anchors are rounded to whole pixels, and a box that no anchor overlaps enough gets
    those that overlap it most, unless another box overlaps them more; the detections are chosen from all levels
    together.
    """

    def __init__(
        self,
        *,
        classes: int,
        channels: int = 3,
        backbone: str = "resnet50",
        backbone_weights: str | None = None,
        levels: list[int] = [3, 4, 5, 6, 7],  # noqa: B006  read, never changed
        width: int = 256,
        towers: int = 4,
        size: float = 4.0,
        scales: int = 3,
        ratios: list[float] = [0.5, 1.0, 2.0],  # noqa: B006  read, never changed
        above: float = 0.5,
        below: float = 0.4,
        score_threshold: float = 0.05,
        nms_threshold: float = 0.5,
        detections: int = 100,
        candidates: int = 1000,
        options: dict[str, Any] | None = None,
    ) -> None:
        check_head(classes, width, towers)
        _check_anchors(size, scales, ratios, above, below)
        body = pyramid(
            backbone=backbone, channels=channels, levels=levels, width=width, weights=backbone_weights, options=options
        )
        cells = [_cell(size * stride, scales, ratios) for stride in body.strides]
        classification, regression = (
            Branch(width, [_block_of(width) for _ in range(towers)], outputs)
            for outputs in ({"cls_logits": len(cells[0]) * classes}, {"bbox_reg": len(cells[0]) * 4})
        )
        super().__init__(
            body,
            Head(classification, regression),
            classes=classes,
            cells=cells,
            towers=towers,
            score_threshold=score_threshold,
            nms_threshold=nms_threshold,
            detections=detections,
            candidates=candidates,
        )
        self.above, self.below = above, below

    def raw(self, towers: Sequence[Tensor]) -> Tensor:
        """Shifts and logarithms of growth from the anchors, in the anchors' sides: (N, A, 4)."""
        return self.head.regression_head.laid_out("bbox_reg", towers, 4)

    def decode(self, raw: Tensor, anchors: Tensor) -> Tensor:
        return decode(raw, anchors)

    def extras(self, towers: Sequence[Tensor], raw: Tensor) -> Signals:
        return {"deltas": raw}

    def match(self, anchors: Tensor, batch: Batch) -> Tensor:
        return by_iou(anchors, batch["boxes"], is_object(batch), above=self.above, below=self.below)


def _block_of(width: int) -> list[nn.Module]:
    """A convolution and a ReLU in one module."""
    return [Conv2dNormActivation(width, width, norm_layer=None)]


def _cell(side: float, scales: int, ratios: Sequence[float]) -> Tensor:
    """(K, 4) around the point (0, 0): ratio by ratio, each in all sizes; whole pixels, as torchvision rounds them."""
    sides = torch.tensor([float(int(side * 2 ** (i / scales))) for i in range(scales)])
    heights = torch.tensor(list(ratios)).sqrt()
    half_width, half_height = ((factors.unsqueeze(1) * sides).flatten() / 2 for factors in (1 / heights, heights))
    return torch.stack([-half_width, -half_height, half_width, half_height], 1).round()


def _check_anchors(size: float, scales: int, ratios: Sequence[float], above: float, below: float) -> None:
    if not size >= 1 or scales < 1 or not ratios or min(ratios) <= 0:
        raise ValueError(
            f"size={size}, scales={scales}, ratios={list(ratios)}: anchors are at least a stride wide, of one size at "
            "least, and their ratios are above 0"
        )
    if not 0 < below <= above <= 1:
        raise ValueError(f"below={below} and above={above}: overlaps are in (0, 1], and `below` is not the larger one")
