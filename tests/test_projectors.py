"""Projectors: from the student's channels to the teacher's, and which one fits what."""

from __future__ import annotations

import pytest
import torch
from torch import Size, nn

from kdcore import projectors


@pytest.mark.parametrize(
    ("student", "teacher"),
    [((4, 8), (4, 16)), ((4, 5, 8), (4, 5, 16)), ((4, 5, 8), (4, 10, 16)), ((4, 8), (2, 8))],
)
def test_linear_maps_the_last_axis(student: tuple[int, ...], teacher: tuple[int, ...]):
    projector = projectors.linear(Size(student), Size(teacher))
    assert projector(torch.randn(student)).shape == (*student[:-1], teacher[-1])


@pytest.mark.parametrize(
    ("student", "teacher"),
    [((4, 8, 6, 6), (4, 16, 6, 6)), ((4, 8, 10), (4, 16, 10)), ((4, 8, 6, 6), (4, 16, 3, 3))],
)
@pytest.mark.parametrize("norm", [True, False])
def test_conv1x1_maps_axis_one_and_leaves_space_alone(student: tuple[int, ...], teacher: tuple[int, ...], norm: bool):
    projector = projectors.conv1x1(Size(student), Size(teacher), norm=norm)
    assert projector(torch.randn(student)).shape == (student[0], teacher[1], *student[2:])


def test_conv1x1_is_a_linear_map_of_each_position():
    projector = projectors.conv1x1(Size((2, 3, 4, 4)), Size((2, 5, 4, 4)), norm=False)
    x = torch.randn(2, 3, 4, 4)
    (weight,) = projector.parameters()
    torch.testing.assert_close(projector(x), torch.einsum("oc,nchw->nohw", weight[:, :, 0, 0], x))


def test_the_norm_takes_the_scale_away():
    torch.manual_seed(0)
    projector = projectors.conv1x1(Size((8, 3, 4, 4)), Size((8, 5, 4, 4)))
    out = projector(100 * torch.randn(8, 3, 4, 4) + 7)
    torch.testing.assert_close(out.mean((0, 2, 3)), torch.zeros(5), atol=1e-5, rtol=0)
    torch.testing.assert_close(out.var((0, 2, 3), unbiased=False), torch.ones(5), atol=1e-3, rtol=0)


@pytest.mark.parametrize(
    ("projector", "names"),
    [
        (projectors.linear(Size((4, 8)), Size((4, 16))), {"weight", "bias"}),
        (projectors.linear(Size((4, 8)), Size((4, 16)), bias=False), {"weight"}),
        (projectors.conv1x1(Size((4, 8, 2)), Size((4, 16, 2))), {"0.weight", "1.weight", "1.bias"}),
        (projectors.conv1x1(Size((4, 8, 2, 2)), Size((4, 16, 2, 2)), bias=True, norm=False), {"weight", "bias"}),
    ],
    ids=["linear", "linear-no-bias", "conv", "conv-bias-no-norm"],
)
def test_the_parameters_asked_for_are_there(projector: nn.Module, names: set[str]):
    assert {name for name, _ in projector.named_parameters()} == names


@pytest.mark.parametrize(
    ("make", "student", "teacher", "hint"),
    [
        (projectors.linear, (4, 8, 6, 6), (4, 16, 6, 6), "use `conv1x1`"),
        (projectors.conv1x1, (4, 8), (4, 16), "use `linear`"),
        (projectors.linear, (4, 8), (4, 16, 6, 6), "tap places of the same kind in both nets"),
        (projectors.conv1x1, (4, 8, 6, 6), (4, 36, 16), "tap places of the same kind in both nets"),
        (projectors.linear, (4,), (4,), "no projector of the core fits these"),
        (projectors.conv1x1, (4, 8, 2, 2, 2), (4, 9, 2, 2, 2), "no projector of the core fits these"),
    ],
)
def test_shapes_that_do_not_suit_are_refused_with_what_fits(make, student, teacher, hint: str):
    with pytest.raises(ValueError, match="joins signals of shape") as caught:
        make(Size(student), Size(teacher))
    message = str(caught.value)
    assert f"not {student} (student) and {teacher} (teacher)" in message
    assert message.endswith(hint)
