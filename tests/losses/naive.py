"""Each loss once more, term by term in float64 from its definition: slow, obvious, and independent of the code."""

from __future__ import annotations

import torch
from torch import Tensor


def softmax(logits: Tensor, temperature: float, axis: int) -> Tensor:
    z = logits.double() / temperature
    e = (z - z.amax(axis, keepdim=True).detach()).exp()
    return e / e.sum(axis, keepdim=True)


def kl(student: Tensor, teacher: Tensor, temperature: float = 1.0, axis: int = -1) -> Tensor:
    p, q = softmax(teacher, temperature, axis), softmax(student, temperature, axis)
    return (p * (p / q).log()).sum(axis)


def reverse_kl(student: Tensor, teacher: Tensor, temperature: float = 1.0, axis: int = -1) -> Tensor:
    p, q = softmax(teacher, temperature, axis), softmax(student, temperature, axis)
    return (q * (q / p).log()).sum(axis)


def jsd(student: Tensor, teacher: Tensor, temperature: float = 1.0, axis: int = -1, beta: float = 0.5) -> Tensor:
    p, q = softmax(teacher, temperature, axis), softmax(student, temperature, axis)
    m = beta * p + (1 - beta) * q
    return (beta * p * (p / m).log() + (1 - beta) * q * (q / m).log()).sum(axis)


def tvd(student: Tensor, teacher: Tensor, temperature: float = 1.0, axis: int = -1) -> Tensor:
    p, q = softmax(teacher, temperature, axis), softmax(student, temperature, axis)
    return (p - q).abs().sum(axis) / 2


def squared_error(student: Tensor, teacher: Tensor, axis: int = -1) -> Tensor:
    return ((student.double() - teacher.double()) ** 2).mean(axis)


def smooth_l1(student: Tensor, teacher: Tensor, axis: int = -1, beta: float = 1.0) -> Tensor:
    d = (student.double() - teacher.double()).abs()
    return torch.where(d < beta, d**2 / (2 * beta) if beta else d, d - beta / 2).mean(axis)


def cosine_distance(student: Tensor, teacher: Tensor, axis: int = -1) -> Tensor:
    s, t = student.double(), teacher.double()
    return 1 - (s * t).sum(axis) / ((s * s).sum(axis).sqrt() * (t * t).sum(axis).sqrt())


def cross_entropy(logits: Tensor, labels: Tensor, axis: int = -1, label_smoothing: float = 0.0) -> Tensor:
    """For integer labels >= 0, or soft labels of the shape of ``logits``."""
    q = softmax(logits, 1.0, axis)
    classes = logits.shape[axis]
    if labels.shape != logits.shape:
        labels = torch.nn.functional.one_hot(labels, classes).movedim(-1, axis)
    y = (1 - label_smoothing) * labels.double() + label_smoothing / classes
    return -(y * q.log()).sum(axis)
