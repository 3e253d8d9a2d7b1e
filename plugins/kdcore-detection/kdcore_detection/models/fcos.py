"""FCOS: a detector without anchors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from kdcore.signals import Batch, Signals
from torch import Tensor
from torch.nn import functional as F

from kdcore_detection.assign import by_centre
from kdcore_detection.boxes import is_object
from kdcore_detection.models.backbone import pyramid
from kdcore_detection.models.dense import Dense, boxes_at, squares
from kdcore_detection.models.head import Branch, Head, block_of, check_head


class FCOS(Dense):
    """`backbone.body`, `backbone.fpn`, `head.classification_head`, `head.regression_head`; the boxes of points.

    Image (N, channels, H, W), both sides multiples of 32 (of the stride of the coarsest level up to 5) ->
    ``logits`` (N, A, C), ``boxes`` (N, A, 4), ``quality`` (N, A), ``anchors`` (N, A, 4), squares of one stride around
    each point. The score of a class is ``sqrt(sigmoid(logit) sigmoid(quality))``.

    Taps: ``backbone.fpn.layer_blocks.*``, the maps of levels up to 5, finest first; ``backbone.fpn.extra_blocks.p6``;
    ``head.classification_head.conv.2`` (5, 8, ...) and ``head.regression_head.conv.2``, the towers' blocks, an
    activation for each level. The state dict of torchvision's ``fcos_resnet50_fpn`` fits the defaults (mean and std are
    then those of ImageNet); files from before torchvision 0.13 name the pyramid otherwise: let torchvision load them.

    Args:
        classes: C; filled in from the task.
        channels: of the image; filled in from the data. Backbones of torchvision take 3.
        backbone: a classifier of torchvision, or one of timm, such as ``timm/resnet10t``.
        backbone_weights: of torchvision (``IMAGENET1K_V1``) or timm (the tag, ``a1_in1k``), fetched when the model is
            made; none by default, so that nothing is fetched. The ``mean`` and ``std`` of their training come along.
        levels: of the pyramid, in a row; level l has a stride of 2^l.
        width: channels of the pyramid and the head, a multiple of 8.
        towers: convolutions in each branch before its last one.
        radius: a point is at most so many strides from the middle of its box, along both axes.
        reach: on each level but the coarsest the farthest side of a box is at most so many strides away.
        score_threshold: a detection at or below it is dropped; a score is a root here, so 0.1 is low.
        nms_threshold: of two boxes of a class that overlap more the better one stays.
        detections: how many of an image are kept at most.
        candidates: how many of an image go into non-maximum suppression at most.
        options: further keywords of the backbone; timm's ResNets take ``{channels: [16, 32, 64, 128]}``.

    Raises:
        ValueError: a backbone, levels or numbers that cannot be.

    **Paper**: Tian et al., FCOS, 2019 (arXiv 1904.01355), and its extension, 2020 (arXiv 2006.09214).
    **Deviation**: as in torchvision, points lie at multiples of the stride and not half a stride further, distances
    come from a ReLU, in strides, and the detections are chosen from all levels together.
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
        radius: float = 1.5,
        reach: float = 8.0,
        score_threshold: float = 0.1,
        nms_threshold: float = 0.6,
        detections: int = 100,
        candidates: int = 1000,
        options: dict[str, Any] | None = None,
    ) -> None:
        if not radius > 0 or not reach > 0:
            raise ValueError(f"radius={radius} and reach={reach} must be above 0")
        check_head(classes, width, towers)
        body = pyramid(
            backbone=backbone, channels=channels, levels=levels, width=width, weights=backbone_weights, options=options
        )
        classification, regression = (
            Branch(width, [block_of(width) for _ in range(towers)], outputs)
            for outputs in ({"cls_logits": classes}, {"bbox_reg": 4, "bbox_ctrness": 1})
        )
        super().__init__(
            body,
            Head(classification, regression),
            classes=classes,
            cells=squares(body.strides),
            towers=towers,
            score_threshold=score_threshold,
            nms_threshold=nms_threshold,
            detections=detections,
            candidates=candidates,
        )
        self.radius, self.reach = radius, reach

    def raw(self, towers: Sequence[Tensor]) -> Tensor:
        """Distances to the left, top, right and bottom, in strides: (N, A, 4)."""
        return F.relu(self.head.regression_head.laid_out("bbox_reg", towers, 4))

    def decode(self, raw: Tensor, anchors: Tensor) -> Tensor:
        return boxes_at(raw, anchors)

    def extras(self, towers: Sequence[Tensor], raw: Tensor) -> Signals:
        return {"quality": self.head.regression_head.laid_out("bbox_ctrness", towers, 1).squeeze(-1)}

    def match(self, anchors: Tensor, batch: Batch) -> Tensor:
        return by_centre(anchors, batch["boxes"], is_object(batch), radius=self.radius, reach=self.reach)

    def scores(self, signals: Signals) -> Tensor:
        return torch.sqrt(super().scores(signals) * signals["quality"].float().sigmoid().unsqueeze(-1))
