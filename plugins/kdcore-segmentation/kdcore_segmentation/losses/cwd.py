"""Channel-wise distillation: where in the image each channel is active."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from kdcore.losses import functional
from kdcore.losses.base import Loss, Total, check_temperature, total_of
from kdcore.losses.functional import upcast
from kdcore.losses.maps import check_maps
from kdcore.schedules import Scheduled
from kdcore.signals import Batch, Signals
from torch import Tensor

from kdcore_segmentation.losses.maps import mask_at

CHUNK = 2**19
"""Elements that are worked on at a time, so that a large map needs no copies of itself."""


class ChannelWise(Loss):
    """``T^2 KL(p_c || q_c)``, mean over channels c; p_c, q_c = softmax over positions of teacher_c / T, student_c / T.

    A channel of the logits says where its class is, a channel of a feature map where its pattern is. Each is made a
    distribution over positions, so that what counts is where it is strong, not how strong.

    **Shape**: both ``logits`` (N, C, H, W), or with ``at:`` a tap of that shape; a tap's ``project`` joins channels.
    ``batch["mask"]`` (N, H, W) bool is optional, of any size: positions it leaves out are not in the distributions.

    **Reduction**: ``count`` is N times C, without the samples that the mask leaves out as a whole; positions are
    summed. The batch's ``weight`` is one number a position and is not read: the terms are channels.

    Memory: the forward pass keeps nothing but its inputs, the backward pass makes the student's gradient and nothing
    else of its size.

    Args:
        temperature: T, a number above 0 or a schedule; 4 as in the paper. It has no gradient.

    Raises:
        ValueError: ``temperature`` is not above 0, or is a tensor that wants a gradient; the two maps differ in shape;
            the mask does not fit.

    **Paper**: Shu et al., Channel-wise Knowledge Distillation for Dense Prediction, ICCV 2021 (arXiv 2011.13256).
    There the sum over channels is divided by C for one image; over a batch we take the mean.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"student.logits", "teacher.logits"})

    def __init__(self, *, temperature: Scheduled = 4.0) -> None:
        super().__init__()
        check_temperature(temperature)
        self.temperature = temperature

    def forward(self, student: Signals, teacher: Signals, batch: Batch, **roles: Any) -> Total:
        s, t, temperature = student["logits"], teacher["logits"], self.now(self.temperature)
        check_maps(s, t, channels=True)
        if isinstance(temperature, Tensor) and temperature.requires_grad:
            raise ValueError("the temperature of channel-wise distillation gets no gradient, and wants one: detach it")
        mask = mask_at(batch, s.shape[2:], len(s))
        added: Tensor = _Divergence.apply(s, t, mask, temperature)
        channels = s.shape[1]
        if mask is None:
            return total_of(added, len(s) * channels)
        return Total(added.float(), mask.flatten(1).any(1).sum() * channels)


class _Divergence(torch.autograd.Function):
    """The sum of the terms, worked out and differentiated some channels at a time."""

    @staticmethod
    def forward(ctx: Any, student: Tensor, teacher: Tensor, mask: Tensor | None, temperature: float | Tensor) -> Tensor:
        ctx.save_for_backward(student, teacher, mask)
        ctx.temperature = temperature
        added = torch.zeros((), device=student.device)
        for a, b in _chunks(student):
            s, t = _visible(student[:, a:b], mask), _visible(teacher[:, a:b], mask)
            added = added + functional.kl(s, t, temperature=temperature).sum()
        return added * temperature**2

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, None, None, None]:
        student, teacher, mask = ctx.saved_tensors
        gradient = torch.empty_like(student)
        scale = upstream[0] * ctx.temperature
        for a, b in _chunks(student):
            q = (_visible(student[:, a:b], mask) / ctx.temperature).softmax(-1)
            q -= (_visible(teacher[:, a:b], mask) / ctx.temperature).softmax(-1)
            gradient[:, a:b] = (q * scale).view_as(gradient[:, a:b])
        return gradient, None, None, None


def _chunks(x: Tensor) -> list[tuple[int, int]]:
    """Ranges of channels."""
    samples, channels, height, width = x.shape
    step = max(1, CHUNK // max(1, samples * height * width))
    return [(a, min(a + step, channels)) for a in range(0, channels, step)]


def _visible(x: Tensor, mask: Tensor | None) -> Tensor:
    """(N, c, H, W) -> float32 (N, c, HW), ``-inf`` where the mask leaves out; 0 in a sample that it leaves out."""
    x = upcast(x).flatten(2)
    if mask is None:
        return x
    kept = mask.flatten(1).unsqueeze(1)
    return x.masked_fill(~kept, -torch.inf).masked_fill(~kept.any(2, keepdim=True), 0.0)
