"""A detector as it is shipped: an image in, boxes out."""

from __future__ import annotations

from kdcore.signals import Signals
from kdcore.task import normalise
from torch import Tensor, nn

from kdcore_detection.boxes import clip
from kdcore_detection.detector import Detector


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
