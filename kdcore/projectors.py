"""Projectors: trainable maps from the student's features to the teacher's channels, made from two example shapes.

They join channels only; where spatial sizes differ, the loss's ``resize:`` joins those.
"""

from __future__ import annotations

from torch import Size, nn


def linear(student_shape: Size, teacher_shape: Size, *, bias: bool = True) -> nn.Module:
    """A linear map of the last axis: (N, C) or (N, T, C) -> the same with the teacher's C.

    Raises:
        ValueError: a shape has other than two or three axes, or the two differ in their number of axes.
    """
    if len(student_shape) not in (2, 3) or len(student_shape) != len(teacher_shape):
        raise ValueError(_unsuited("linear", "(N, C) or (N, T, C)", student_shape, teacher_shape))
    return nn.Linear(student_shape[-1], teacher_shape[-1], bias=bias)


def conv1x1(student_shape: Size, teacher_shape: Size, *, bias: bool = False, norm: bool = True) -> nn.Module:
    """A convolution of kernel 1 over axis 1: (N, C, T) or (N, C, H, W) -> the same with the teacher's C.

    Args:
        bias: of the convolution; off by default, as batch normalisation has its own.
        norm: follow it by batch normalisation, so that the student need not match the teacher's scale from the start
            (Heo et al., 2019, arXiv 1904.01866).

    **Paper**: Romero et al., FitNets, 2014 (arXiv 1412.6550), the convolutional regressor, with a kernel of 1.

    Raises:
        ValueError: a shape has other than three or four axes, or the two differ in their number of axes.
    """
    axes = len(student_shape)
    if axes not in (3, 4) or axes != len(teacher_shape):
        raise ValueError(_unsuited("conv1x1", "(N, C, T) or (N, C, H, W)", student_shape, teacher_shape))
    channels = teacher_shape[1]
    conv = (nn.Conv1d if axes == 3 else nn.Conv2d)(student_shape[1], channels, 1, bias=bias)
    if not norm:
        return conv
    return nn.Sequential(conv, nn.BatchNorm1d(channels) if axes == 3 else nn.BatchNorm2d(channels))


def _unsuited(projector: str, takes: str, student_shape: Size, teacher_shape: Size) -> str:
    message = (
        f"projector `{projector}` joins signals of shape {takes}, "
        f"not {tuple(student_shape)} (student) and {tuple(teacher_shape)} (teacher)"
    )
    if len(student_shape) != len(teacher_shape):
        return f"{message}: tap places of the same kind in both nets"
    fitting = {2: "linear", 4: "conv1x1"}.get(len(student_shape))
    return f"{message}: use `{fitting}`" if fitting else f"{message}: no projector of the core fits these"
