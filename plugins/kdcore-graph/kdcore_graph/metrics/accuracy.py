"""Accuracy where it is hardest: on nodes never seen, and under noise."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from kdcore.metrics.accuracy import Accuracy
from kdcore.signals import IGNORE


class _Part(Accuracy):
    """The accuracy of one part of the nodes; NaN where the split has none of them."""

    takes: ClassVar[str] = "preds_target_unseen"
    unseen: ClassVar[bool]

    def __init__(self) -> None:
        super().__init__()

    def update(self, preds: Tensor, target: Tensor, unseen: Tensor) -> None:  # type: ignore[override]
        """Add a batch: logits (N, C), labels (N,), and which nodes are unseen (N,)."""
        super().update(preds, torch.where(unseen == self.unseen, target, IGNORE))

    def scores(self, preds: Tensor, target: Tensor, unseen: Tensor) -> Tensor:  # type: ignore[override]
        return super().scores(preds, torch.where(unseen == self.unseen, target, IGNORE))


class UnseenAccuracy(_Part):
    """The share of right answers about nodes that were unseen while training: ``ind`` in GLNN's tables.

    In [0, 1], more is better. NaN where no node was unseen, as in validation.
    """

    unseen: ClassVar[bool] = True


class SeenAccuracy(_Part):
    """The share of right answers about nodes whose features were known while training: ``tran`` in GLNN's tables.

    In [0, 1], more is better.
    """

    unseen: ClassVar[bool] = False


class NoiseAccuracy(Accuracy):
    """The share of right answers when the features are noisy; how noisy, ``data.noise`` says.

    In [0, 1], more is better.
    """

    takes: ClassVar[str] = "noisy"

    def __init__(self) -> None:
        super().__init__()
