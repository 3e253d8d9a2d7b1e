"""What is done to a batch before the nets see it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from kdcore.signals import IGNORE, Batch
from torch import nn


class LabelledPixels(nn.Module):
    """Sets the batch's ``mask`` to the pixels that have a label, so that a teacher speaks about no others.

    Without it, pixel-wise distillation counts every pixel of an image, the unlabelled ones too: that is what one wants
    of images without labels, and perhaps not of pixels that belong to no class. A mask that is there already is
    narrowed. Views get masks of their own.
    """

    def forward(self, batch: Batch, models: Callable[[str], nn.Module]) -> Batch:
        """The batch with ``mask`` bool (N, H, W).

        Raises:
            KeyError: it has no ``labels``.
        """
        if "labels" not in batch:
            raise KeyError("`labelled` reads the batch's `labels`, which this data does not give")
        made = _masked(batch)
        if "views" in batch:
            made["views"] = {name: _masked(view) if "labels" in view else view for name, view in batch["views"].items()}
        return made


def _masked(batch: Batch) -> Batch:
    labelled = batch["labels"] != IGNORE
    return {**batch, "mask": torch.logical_and(labelled, batch["mask"]) if "mask" in batch else labelled}
