"""What the supervised losses of dense detectors share: targets of the positions, and focal terms."""

from __future__ import annotations

import torch
from kdcore.losses.functional import upcast
from torch import Tensor
from torch.nn import functional as F

from kdcore_detection.assign import IGNORED, matched


def is_class(assigned: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Which class each position is to find: (N, A), (N, M) -> bool (N, A, C); none at background."""
    wanted = torch.where(assigned >= 0, matched(labels, assigned), -1)
    return wanted.unsqueeze(-1) == torch.arange(classes, device=labels.device)


def over_positions(terms: Tensor, assigned: Tensor) -> Tensor:
    """The sum of (N, A, C) over all positions that are not ignored."""
    return torch.where((assigned != IGNORED).unsqueeze(-1), terms, 0.0).sum()


def focal(logits: Tensor, target: Tensor, *, alpha: float, gamma: float) -> Tensor:
    """``-alpha_t (1 - p_t)^gamma log p_t``, p = sigmoid(logit), p_t that of the truth: a term for each logit.

    Args:
        target: bool, of the shape of ``logits``; where it holds alpha_t is ``alpha``, else ``1 - alpha``.
    """
    x = upcast(logits)
    wrong = torch.where(target, -x, x)  # 1 - p_t is its sigmoid, -log p_t its softplus
    weight = torch.where(target, alpha, 1.0 - alpha)
    return weight * (gamma * F.logsigmoid(wrong)).exp() * F.softplus(wrong)


def quality_focal(logits: Tensor, target: Tensor, *, beta: float) -> Tensor:
    """``-|y - p|^beta ((1 - y) log(1 - p) + y log p)``, p = sigmoid(logit), y in [0, 1]: a term for each logit."""
    x = upcast(logits)
    entropy = F.binary_cross_entropy_with_logits(x, target, reduction="none")
    return (target - x.sigmoid()).abs().pow(beta) * entropy


def check_focal(alpha: float, gamma: float) -> None:
    """Refuse numbers that are none of a focal loss.

    Raises:
        ValueError: ``alpha`` outside [0, 1], or ``gamma`` below 0.
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha={alpha} is not in [0, 1]: it is the weight of objects, 1 - alpha that of background")
    if not gamma >= 0:
        raise ValueError(f"gamma={gamma} is below 0: it would look at what is easy")
