"""A detector as it is shipped: an image in, boxes out."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from kdcore.signals import Signals
from kdcore.task import normalise
from torch import Tensor, nn

from kdcore_detection.boxes import clip
from kdcore_detection.detector import Detections, Detector


class Deployed(nn.Module):
    """Normalisation, the net, clipping, and the choice of the best.

    Raises:
        ValueError: the model is no detector.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        if not isinstance(model, Detector):
            raise ValueError(f"a {type(model).__name__} is no detector: it gives no boxes to ship")
        self.model = model

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        signals: Signals = self.model(normalise(self.model, image))
        height, width = image.shape[-2:]
        found = self.model.detections({**signals, "boxes": clip(signals["boxes"], height, width)})
        return found._asdict()  # exporters keep its names, and know dictionaries

    def difference(self, ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> float:
        """How far two answers are apart, in whatever order: scores that are nearly equal change places in an export.

        Each detection is compared with the nearest one of its class on the other side, by its score and, relative to
        the largest of them, by its coordinates. One that is missing there counts by how far its score is above what was
        still kept.
        """
        one, other = Detections(*ours), Detections(*theirs)
        return float(torch.stack([self._apart(one, other), self._apart(other, one)]).max())  # NaN, if any is

    def _apart(self, ours: Detections, theirs: Detections) -> Tensor:
        moved = (ours.boxes.unsqueeze(2) - theirs.boxes.unsqueeze(1)).abs().amax(-1)  # (N, D, D)
        farthest = ours.boxes.amax(-1, keepdim=True).clamp(min=1)  # float32 knows pixels relative to it
        scored = (ours.scores.unsqueeze(2) - theirs.scores.unsqueeze(1)).abs()
        same = ours.labels.unsqueeze(2) == theirs.labels.unsqueeze(1)
        nearest = torch.where(same, torch.maximum(moved / farthest, scored), torch.inf).amin(2)  # (N, D)
        last = theirs.scores.amin(1, keepdim=True)  # 0 where not all places are taken
        missing = (ours.scores - torch.where(last > 0, last, self.model.score_threshold)).clamp(min=0)
        return torch.where(ours.scores > 0, torch.minimum(nearest, missing), 0.0).max()
