"""Perceptual distance: two maps as a third net sees them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from kdcore.losses.base import Loss, Total, total_of
from kdcore.losses.functional import upcast
from kdcore.losses.maps import check_maps
from kdcore.signals import Batch, Signals
from kdcore.taps import Taps
from torch import Tensor, nn


class Perceptual(Loss):
    """``sum over layers l of mean((phi_l(s) - phi_l(t))^2)``, mean over samples; phi are layers of a frozen ``judge``.

    The judge is run on the student's map and on the teacher's, with a gradient to the student's. A tap of the judge
    would not do: the core runs every model on the batch's image, never on what another model made of it.

    A map of more channels than an image has is made an image first: its channels are averaged in as many groups, in
    their order. Either image is brought to scale by the mean and standard deviation of the teacher's.

    **Shape**: student and teacher ``feature`` (N, C, H, W), bound with ``at:``; a tap's ``project`` joins channels.
    The role ``judge`` names the frozen net, one of the stage's ``teachers``; it is not run on the batch.

    **Reduction**: ``count`` is the number of samples N; elements of a layer are averaged, layers are added. The batch's
    ``mask`` and ``weight`` are not read.

    Args:
        part: the part of the judge that takes the image, such as ``encoder``.
        layers: paths of the judge's modules whose outputs are compared, as in a tap; all must lie in that part.
        channels: of the image that the part takes; filled in from the data.

    Raises:
        ValueError: no ``layers``; the judge has no such ``part``; the map has fewer channels than the part takes; the
            two maps differ in shape.
        RunError: a layer's path is malformed, or names no module of the judge; the part does not call it.

    **Paper**: Patil et al., Efficient Knowledge Distillation of SAM for Medical Image Segmentation, 2025
    (arXiv 2501.16740), where a pretrained VGG judges, beside the core's ``mse`` between the encoders' maps.
    **Deviation**: how a map of many channels becomes an image for the judge is ours.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"student.feature", "teacher.feature"})
    signal: ClassVar[str] = "feature"

    def __init__(self, *, part: str = "encoder", layers: list[str], channels: int) -> None:
        super().__init__()
        if not layers:
            raise ValueError("layers=[]: name the judge's modules whose outputs are compared")
        self.part = part
        self.layers = tuple(layers)
        self.channels = channels
        # in plain tuples: a frozen net is no part of this loss, is not stored with it and not put into train mode
        self._judge: tuple[nn.Module, Taps] | None = None

    def setup(
        self, example: Mapping[str, Signals], facts: Mapping[str, int], models: Callable[[str], nn.Module]
    ) -> None:
        judge = models("judge")
        parts = dict(judge.named_modules())
        if self.part not in parts:
            raise ValueError(
                f"the judge has no part `{self.part}`; its parts are {', '.join(dict(judge.named_children()))}"
            )
        paths = {str(i): path for i, path in enumerate(self.layers)}
        self._judge = parts[self.part], Taps(judge, paths, "judge")

    def close(self) -> None:
        if self._judge is not None:
            self._judge[1].remove()
            self._judge = None

    def forward(
        self, student: Signals, teacher: Signals, batch: Batch, *, judge: Signals | None = None, **roles: Any
    ) -> Total:
        s, t = upcast(student["feature"]), upcast(teacher["feature"])
        check_maps(s, t, channels=True)
        if s.shape[1] < self.channels:
            raise ValueError(f"a map of {s.shape[1]} channels makes no image of {self.channels}")
        s, t = (F.adaptive_avg_pool3d(x, (self.channels, *x.shape[2:])) for x in (s, t))
        mean, std = t.mean((1, 2, 3), keepdim=True), t.std((1, 2, 3), keepdim=True).clamp(min=1e-6)
        ours = self._seen((s - mean) / std)
        with torch.no_grad():
            theirs = self._seen((t - mean) / std)
        distances = [F.mse_loss(upcast(x), upcast(theirs[name])) for name, x in ours.items()]
        return total_of(torch.stack(distances).sum() * len(s), len(s))

    def _seen(self, image: Tensor) -> Signals:
        if self._judge is None:
            raise ValueError("the judge is found in setup(), which was not called")
        part, taps = self._judge
        parameter = next(part.parameters(), image)
        with taps.armed():
            part(image.to(parameter.dtype))
        return taps.take()
