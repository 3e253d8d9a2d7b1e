"""Features changed a little, so that the student errs most: a view to train on."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from kdcore.losses import functional
from kdcore.signals import Batch
from kdcore_graph.tasks.outputs import FrozenOutputs, from_features


class Adversarial(nn.Module):
    """Adds the view ``adversarial``: features moved within a box around themselves, by ascent on the student's loss.

    The loss is what NOSMOG trains with: cross-entropy where there is a label, and the divergence from the teacher.
    Losses read it as ``student: student@adversarial``. The teacher always sees the clean features.

    Args:
        of: the model that is attacked.
        teacher: whose answers it should give.
        radius: half the side of the box.
        steps: of the ascent; each as long as ``2 * radius / steps``.

    Raises:
        ValueError: a radius that is not above 0, or no steps.

    **Paper**: Tian et al., NOSMOG, 2022 (arXiv 2208.10010); Madry et al., 2017 (arXiv 1706.06083), for the ascent.
    """

    def __init__(self, *, of: str = "student", teacher: str = "teacher", radius: float = 0.05, steps: int = 2) -> None:
        super().__init__()
        if not radius > 0 or steps < 1:
            raise ValueError(f"radius={radius} must be above 0, and steps={steps} at least 1")
        self._of, self._teacher, self._radius, self._steps = of, teacher, radius, steps
        self._outputs = FrozenOutputs()

    def forward(self, batch: Batch, models: Callable[[str], nn.Module]) -> Batch:
        net, teacher = models(self._of), models(self._teacher)
        with torch.no_grad():
            target = self._outputs.rows(teacher, batch["graph"], batch["id"], unseen=False)["logits"]
        clean = batch["features"]
        clean = clean.to_dense() if clean.layout == torch.sparse_csr else clean
        change = torch.empty_like(clean).uniform_(-self._radius, self._radius)
        for _ in range(self._steps):
            with torch.enable_grad():
                moved = (clean + change).requires_grad_()
                logits = from_features(net, batch, moved)["logits"]
                (uphill,) = torch.autograd.grad(_loss(logits, target, batch), moved)
            change = (change + 2 * self._radius / self._steps * uphill.sign()).clamp(-self._radius, self._radius)
        views = {**batch.get("views", {}), "adversarial": {"features": clean + change}}
        return {**batch, "views": views}


def _loss(logits: Tensor, target: Tensor, batch: Batch) -> Tensor:
    return functional.kl(logits, target).sum() + functional.cross_entropy_sum(logits, batch["labels"])
