"""What dense detectors share: a pyramid, a head of two branches run on every level, anchors, and the way to boxes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from kdcore.losses.functional import upcast
from kdcore.signals import Batch, Signals
from kdcore.task import set_input_statistics
from torch import Tensor

from kdcore_detection.assign import settle
from kdcore_detection.boxes import centre
from kdcore_detection.detector import Detections, Detector, best_classes, check_selection, keep_best
from kdcore_detection.models.backbone import Pyramid
from kdcore_detection.models.head import BRANCHES, BranchName, Head


class Dense(Detector):
    """``backbone.body``, ``backbone.fpn``, ``head.classification_head``, ``head.regression_head``.

    A position is one of the anchors of a place of a level: levels fine to coarse, rows from the top, places from the
    left, anchors of a place side by side. The points of a level of stride s lie at multiples of s, from 0 on, which is
    where the receptive fields of ResNets have their middle; torchvision does the same.

    Args:
        backbone: gives the maps.
        head: runs on each of them.
        classes: C.
        cells: of each level the anchors (K, 4) around the point (0, 0).
        towers: how many blocks each branch's ``conv`` has.
        score_threshold: a detection at or below it is dropped.
        nms_threshold: of two boxes of a class that overlap more the better one stays.
        detections: how many of an image are kept at most.
        candidates: how many of an image go into non-maximum suppression at most.

    Attributes:
        head_maps: of each branch the modules that end the blocks of its tower, to be tapped.
    """

    def __init__(
        self,
        backbone: Pyramid,
        head: Head,
        *,
        classes: int,
        cells: Sequence[Tensor],
        towers: int,
        score_threshold: float,
        nms_threshold: float,
        detections: int,
        candidates: int,
    ) -> None:
        super().__init__()
        check_selection(score_threshold, nms_threshold, detections, candidates)
        self.backbone, self.head, self.classes = backbone, head, classes
        self.score_threshold, self.nms_threshold = score_threshold, nms_threshold
        self.limit, self.candidates = detections, candidates
        if backbone.statistics is not None:
            set_input_statistics(self, *backbone.statistics)
        self._cells = [cell.tolist() for cell in cells]
        self._anchors: dict[tuple[Any, ...], Tensor] = {}
        self._block = len(head.classification_head.conv) // max(1, towers)
        ends = [block * self._block - 1 for block in range(1, towers + 1)]
        self.head_maps = {branch: [f"head.{name}.conv.{end}" for end in ends] for branch, name in BRANCHES.items()}

    def forward(self, image: Tensor) -> Signals:
        """``logits``, ``boxes``, ``anchors`` and what the kind of detector adds.

        Raises:
            ValueError: the image is no multiple of the coarsest stride of the backbone.
        """
        self.backbone.check_size(image, type(self).__name__)
        maps = self.backbone(image)
        logits = self.finish("class", 0, maps)
        towers = self._towers("box", 0, maps)
        raw = self.raw(towers)
        anchors = self._anchors_of(image, maps).expand(image.shape[0], -1, -1)  # len() would fix it in an export
        return {"logits": logits, "boxes": self.decode(raw, anchors), "anchors": anchors, **self.extras(towers, raw)}

    def finish(self, branch: BranchName, layer: int, maps: Sequence[Tensor]) -> Tensor:
        """The rest of this net's head over maps, one of each level, that stand before block ``layer`` of a branch.

        Returns:
            ``logits`` (N, A, C), or what :meth:`decode` takes.
        """
        towers = self._towers(branch, layer, maps)
        if branch == "box":
            return self.raw(towers)
        return self.head.classification_head.laid_out("cls_logits", towers, self.classes)

    def raw(self, towers: Sequence[Tensor]) -> Tensor:
        """What the box branch gives, (N, A, ...), from the ends of its towers."""
        raise NotImplementedError

    def decode(self, raw: Tensor, anchors: Tensor) -> Tensor:
        """The output of the box branch and anchors (N, A, 4) -> boxes float32 (N, A, 4)."""
        raise NotImplementedError

    def extras(self, towers: Sequence[Tensor], raw: Tensor) -> Signals:
        """Further signals of this kind of detector."""
        return {}

    def match(self, anchors: Tensor, batch: Batch) -> Tensor:
        """``anchors`` (A, 4), the same for all images -> ``assigned`` (N, A); see :mod:`kdcore_detection.assign`."""
        raise NotImplementedError

    def scores(self, signals: Signals) -> Tensor:
        """(N, A, C), in [0, 1]."""
        return signals["logits"].float().sigmoid()

    def assign(self, signals: Signals, batch: Batch) -> Tensor:
        anchors = signals["anchors"][0]
        return settle(self.match(anchors, batch), anchors, batch)

    def detections(self, signals: Signals) -> Detections:
        found = best_classes(self.scores(signals), signals["boxes"], self.candidates)
        return keep_best(
            found, score_threshold=self.score_threshold, nms_threshold=self.nms_threshold, limit=self.limit
        )

    def level_sizes(self, height: int, width: int) -> list[int]:
        """How many positions each level has in an image of this size."""
        strides = self.backbone.strides
        return [
            len(cell) * -(-height // stride) * -(-width // stride)
            for cell, stride in zip(self._cells, strides, strict=True)
        ]

    def _towers(self, branch: BranchName, layer: int, maps: Sequence[Tensor]) -> list[Tensor]:
        conv = (self.head.classification_head if branch == "class" else self.head.regression_head).conv
        rest = conv[layer * self._block :] if layer else conv
        return [rest(one) for one in maps]

    def _anchors_of(self, image: Tensor, maps: Sequence[Tensor]) -> Tensor:
        """(A, 4), float32; made once for each size of image."""
        height, width = image.shape[-2:]
        if torch.compiler.is_compiling():  # what is made in a trace must not outlive it
            return self._made(height, width, maps, image.device)
        key = (height, width, image.device)
        if key not in self._anchors:
            self._anchors[key] = self._made(height, width, maps, image.device)
        return self._anchors[key]

    def _made(self, height: int, width: int, maps: Sequence[Tensor], device: torch.device) -> Tensor:
        levels = []
        for cell, one in zip(self._cells, maps, strict=True):
            rows, columns = one.shape[-2:]
            # as torchvision: a map that is rounded up, above level 5, has points a little closer than its stride
            y = torch.arange(rows, device=device, dtype=torch.float32) * (height // rows)
            x = torch.arange(columns, device=device, dtype=torch.float32) * (width // columns)
            y, x = (axis.flatten() for axis in torch.meshgrid(y, x, indexing="ij"))
            at = torch.stack([x, y, x, y], -1).unsqueeze(1)
            levels.append((at + torch.tensor(cell, device=device, dtype=torch.float32)).flatten(0, 1))
        return torch.cat(levels)


def squares(strides: Sequence[int]) -> list[Tensor]:
    """Of each level the square of one stride around the point (0, 0), (1, 4)."""
    return [torch.tensor([[-0.5, -0.5, 0.5, 0.5]]) * stride for stride in strides]


def boxes_at(distances: Tensor, anchors: Tensor) -> Tensor:
    """Distances from points to the left, top, right and bottom, in strides, (N, A, 4) -> boxes float32 (N, A, 4)."""
    x, y = centre(anchors)
    left, top, right, bottom = (upcast(distances) * (anchors[..., 2:3] - anchors[..., 0:1])).unbind(-1)
    return torch.stack([x - left, y - top, x + right, y + bottom], -1)
