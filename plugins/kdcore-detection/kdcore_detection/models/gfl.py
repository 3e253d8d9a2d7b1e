"""GFL: a detector that gives a distribution for each side of a box, and one number for class and quality."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from kdcore.losses.functional import upcast
from kdcore.signals import Batch, Signals
from torch import Tensor

from kdcore_detection.assign import by_statistics
from kdcore_detection.boxes import centre, is_object
from kdcore_detection.models.backbone import pyramid
from kdcore_detection.models.dense import Dense, boxes_at, squares
from kdcore_detection.models.head import Branch, Head, block_of, check_head


class GFL(Dense):
    """`backbone.body`, `backbone.fpn`, `head.classification_head`, `head.regression_head`; distributions over sides.

    Image (N, channels, H, W), both sides multiples of 32 (of the stride of the coarsest level up to 5) ->
    ``logits`` (N, A, C), ``boxes`` (N, A, 4), ``distribution`` (N, A, 4, bins), logits over the distances 0, 1, ...,
    bins - 1 strides to the left, top, right and bottom, whose mean makes the box, and ``anchors`` (N, A, 4), squares of
    one stride around each point. The score of a class is ``sigmoid(logit)``, which is trained to be the box's quality.

    Taps: ``backbone.fpn.layer_blocks.*``, the maps of levels up to 5, finest first; ``backbone.fpn.extra_blocks.p6``;
    ``head.classification_head.conv.2`` (5, 8, ...) and ``head.regression_head.conv.2``, the towers' blocks, an
    activation for each level.

    Args:
        classes: C; filled in from the task.
        channels: of the image; filled in from the data. Backbones of torchvision take 3.
        backbone: a classifier of torchvision, or one of timm, such as ``timm/resnet10t``.
        backbone_weights: of torchvision (``IMAGENET1K_V1``) or timm (the tag, ``a1_in1k``), fetched when the model is
            made; none by default, so that nothing is fetched. The ``mean`` and ``std`` of their training come along.
        levels: of the pyramid, in a row; level l has a stride of 2^l.
        width: channels of the pyramid and the head, a multiple of 8.
        towers: convolutions in each branch before its last one.
        bins: of each distribution; a side is at most ``bins - 1`` strides away.
        size: sides of the square around a point whose overlap with a box decides in ATSS, in strides.
        nearest: so many points of each level are candidates of a box in ATSS.
        score_threshold: a detection at or below it is dropped.
        nms_threshold: of two boxes of a class that overlap more the better one stays.
        detections: how many of an image are kept at most.
        candidates: how many of an image go into non-maximum suppression at most.
        options: further keywords of the backbone; timm's ResNets take ``{channels: [16, 32, 64, 128]}``.

    Raises:
        ValueError: a backbone, levels or numbers that cannot be.

    **Paper**: Li et al., Generalized Focal Loss, 2020 (arXiv 2006.04388); ATSS: Zhang et al., 2019 (arXiv 1912.02424).
    **Deviation**: no factor of its own for each level; the detections are chosen from all levels together.
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
        bins: int = 17,
        size: float = 8.0,
        nearest: int = 9,
        score_threshold: float = 0.05,
        nms_threshold: float = 0.6,
        detections: int = 100,
        candidates: int = 1000,
        options: dict[str, Any] | None = None,
    ) -> None:
        check_head(classes, width, towers)
        if bins < 2 or not size > 0 or nearest < 1:
            raise ValueError(f"bins={bins}, size={size}, nearest={nearest}: at least 2 bins, above 0, and at least 1")
        body = pyramid(
            backbone=backbone, channels=channels, levels=levels, width=width, weights=backbone_weights, options=options
        )
        classification, regression = (
            Branch(width, [block_of(width) for _ in range(towers)], outputs)
            for outputs in ({"cls_logits": classes}, {"bbox_reg": 4 * bins})
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
        self.bins, self.size, self.nearest = bins, size, nearest

    def raw(self, towers: Sequence[Tensor]) -> Tensor:
        """``distribution`` (N, A, 4, bins)."""
        flat = self.head.regression_head.laid_out("bbox_reg", towers, 4 * self.bins)
        return flat.reshape(*flat.shape[:2], 4, self.bins)

    def decode(self, raw: Tensor, anchors: Tensor) -> Tensor:
        steps = torch.arange(self.bins, device=raw.device, dtype=torch.float32)
        return boxes_at((upcast(raw).softmax(-1) * steps).sum(-1), anchors)

    def extras(self, towers: Sequence[Tensor], raw: Tensor) -> Signals:
        return {"distribution": raw}

    def match(self, anchors: Tensor, batch: Batch) -> Tensor:
        levels = self.level_sizes(*batch["image"].shape[-2:])
        return by_statistics(
            self.squares(anchors), batch["boxes"], is_object(batch), levels=levels, candidates=self.nearest
        )

    def squares(self, anchors: Tensor) -> Tensor:
        """The squares that ATSS compares with boxes, around the points of ``anchors`` (A, 4)."""
        (x, y), half = centre(anchors), self.size * (anchors[:, 2] - anchors[:, 0]) / 2
        return torch.stack([x - half, y - half, x + half, y + half], -1)
