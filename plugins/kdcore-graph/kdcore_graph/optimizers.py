"""The optimizer of the GNN literature."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch.optim import Adam, Optimizer


def adam(
    groups: list[dict[str, Any]], *, lr: float = 0.01, weight_decay: float = 5e-4, inner_steps: int = 1
) -> Optimizer:
    """Adam with weight decay added to the gradient, as the GNN literature trains; fused.

    **Paper**: Kingma and Ba, Adam, 2014 (arXiv 1412.6980); defaults as Kipf and Welling, 2016 (arXiv 1609.02907).

    Args:
        groups: parameter groups; what a group sets itself goes before the keywords here.
        lr: step size.
        weight_decay: added to the gradient, times the parameter.
        inner_steps: updates made of each batch before the trainer is asked for the next. Where a batch is the whole
            graph this is the same training with less ado between the steps: schedules, the log and the bar count
            batches. With small batches it is another training: leave it at 1.

    Raises:
        ValueError: fewer than one step.
    """
    if inner_steps < 1:
        raise ValueError(f"inner_steps={inner_steps}: give at least 1")
    return _InnerAdam(inner_steps, groups, lr=lr, weight_decay=weight_decay, fused=True)


class _InnerAdam(Adam):
    """Asks the closure for a loss and its gradients several times in a step, as torch's LBFGS does.

    Attributes:
        again: set by the core where the trainer has nothing to do between two updates; it is asked from the second on.
    """

    again: Callable[[], Any] | None = None

    def __init__(self, inner_steps: int, groups: list[dict[str, Any]], **settings: Any) -> None:
        super().__init__(groups, **settings)
        self._inner_steps = inner_steps

    def step(self, closure: Any = None) -> Any:
        loss = super().step(closure)
        for _ in range(self._inner_steps - 1 if closure is not None else 0):
            loss = super().step(self.again or closure)
        return loss
