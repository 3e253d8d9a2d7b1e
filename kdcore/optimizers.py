"""The optimizers of the core. Both are fused: one kernel a step, and ``found_inf`` gates the update on the device."""

from __future__ import annotations

from typing import Any

import torch
from torch.optim import SGD, AdamW, Optimizer


def adamw(
    groups: list[dict[str, Any]],
    *,
    lr: float = 1e-3,
    weight_decay: float = 0.01,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
) -> Optimizer:
    """Adam with decoupled weight decay; the defaults are the paper's and torch's.

    **Paper**: Loshchilov and Hutter, Decoupled Weight Decay Regularization, 2017 (arXiv 1711.05101), algorithm 2.

    Args:
        groups: parameter groups; what a group sets itself goes before the keywords here.
    """
    return AdamW(groups, lr=lr, weight_decay=weight_decay, betas=(betas[0], betas[1]), eps=eps, fused=True)


def sgd(
    groups: list[dict[str, Any]],
    *,
    lr: float,
    momentum: float = 0.9,
    weight_decay: float = 1e-4,
    nesterov: bool = False,
) -> Optimizer:
    """Stochastic gradient descent with momentum.

    **Paper**: He et al., Deep Residual Learning, 2015 (arXiv 1512.03385), section 3.4, for the defaults.

    Args:
        groups: parameter groups; what a group sets itself goes before the keywords here.
        lr: has no default, as no value suits all nets.
    """
    optimizer = SGD(groups, lr=lr, momentum=momentum, weight_decay=weight_decay, nesterov=nesterov, fused=True)
    for group in optimizer.param_groups:
        for parameter in group["params"] if group["momentum"] else ():
            # torch makes the buffer in the first step, of uninitialised memory if `found_inf` skips that very step;
            # from zeros the first step comes out the same
            optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return optimizer
