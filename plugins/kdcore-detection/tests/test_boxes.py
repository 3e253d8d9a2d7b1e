from __future__ import annotations

import pytest
import torch
import torchvision
from torch import Tensor
from torchvision.models.detection._utils import BoxCoder

from kdcore_detection.boxes import area, centre, clip, decode, encode, giou, iou, is_box, is_object

UNIT = torch.tensor([0.0, 0.0, 2.0, 2.0])


def boxes(n: int, seed: int = 0) -> Tensor:
    """With sides of 1 to 51."""
    generator = torch.Generator().manual_seed(seed)
    corner = 100 * torch.rand(n, 2, generator=generator)
    return torch.cat([corner, corner + 1 + 50 * torch.rand(n, 2, generator=generator)], 1)


# --- which boxes count


def test_padding_is_what_has_no_label():
    batch = {"box_labels": torch.tensor([[0, -100], [3, 1]])}
    assert is_box(batch).tolist() == [[True, False], [True, True]]


def test_an_object_is_neither_padding_nor_ignored():
    batch = {"box_labels": torch.tensor([[0, 1, -100]]), "box_ignore": torch.tensor([[True, False, False]])}
    assert is_object(batch).tolist() == [[False, True, False]]


def test_without_box_ignore_all_boxes_are_objects():
    assert is_object({"box_labels": torch.tensor([[0, -100]])}).tolist() == [[True, False]]


# --- areas and overlaps


def test_clip():
    wild = torch.tensor([[-3.0, 2.0, 120.0, 70.0], [130.0, -9.0, 140.0, -2.0]])
    assert clip(wild, 64, 96).tolist() == [[0, 2, 96, 64], [96, 0, 96, 0]]


def test_area_of_a_box_turned_inside_out_is_0():
    assert area(torch.tensor([[1.0, 1.0, 4.0, 3.0], [4.0, 1.0, 1.0, 3.0], [4.0, 3.0, 1.0, 1.0]])).tolist() == [6, 0, 0]


def test_centre():
    assert [float(x) for x in centre(torch.tensor([1.0, 2.0, 4.0, 3.0]))] == [2.5, 2.5]


@pytest.mark.parametrize(
    ("other", "overlap", "generalised"),
    [
        ([0.0, 0.0, 2.0, 2.0], 1.0, 1.0),
        ([1.0, 0.0, 3.0, 2.0], 2 / 6, 2 / 6),  # their hull is their union
        ([1.0, 1.0, 3.0, 3.0], 1 / 7, 1 / 7 - 2 / 9),
        ([3.0, 0.0, 4.0, 2.0], 0.0, -2 / 8),  # apart
        ([1.0, 1.0, 1.0, 1.0], 0.0, 0.0),  # empty, inside
    ],
)
def test_overlaps_by_hand(other: list[float], overlap: float, generalised: float):
    assert iou(UNIT, torch.tensor(other)).item() == pytest.approx(overlap)
    assert giou(UNIT, torch.tensor(other)).item() == pytest.approx(generalised)


def test_every_box_with_every_other_as_torchvision():
    a, b = boxes(7).view(1, 7, 4), boxes(5, seed=1).view(1, 5, 4)
    pairs = a.unsqueeze(-2), b.unsqueeze(-3)
    torch.testing.assert_close(iou(*pairs)[0], torchvision.ops.box_iou(a[0], b[0]))
    torch.testing.assert_close(giou(*pairs)[0], torchvision.ops.generalized_box_iou(a[0], b[0]))


def test_the_gradient_is_that_of_torchvision_s_loss():
    a, b = boxes(20).requires_grad_(), boxes(20, seed=1)
    ours = torch.autograd.grad((1 - giou(a, b)).sum(), a)[0]
    theirs = torch.autograd.grad(torchvision.ops.generalized_box_iou_loss(a, b, reduction="sum"), a)[0]
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("measure", [iou, giou])
def test_empty_boxes_have_a_finite_value_and_gradient(measure):
    a = torch.tensor([[0.0, 0, 0, 0], [5, 5, 5, 5], [4, 4, 1, 1], [0, 0, 0, 0]], requires_grad=True)
    b = torch.tensor([[0.0, 0, 0, 0], [5, 5, 5, 5], [0, 0, 3, 3], [1, 1, 2, 2]])
    value = measure(a, b)
    value.sum().backward()
    assert value.isfinite().all()
    assert a.grad is not None
    assert a.grad.isfinite().all()


def test_half_precision_is_computed_in_float32():
    a, b = boxes(9).bfloat16(), boxes(9, seed=1).bfloat16()
    assert giou(a, b).dtype == torch.float32
    torch.testing.assert_close(giou(a, b), giou(a.float(), b.float()))


# --- deltas

WEIGHTS = (10.0, 10.0, 5.0, 5.0)


@pytest.mark.parametrize("weights", [(1.0, 1.0, 1.0, 1.0), WEIGHTS])
def test_deltas_as_torchvision_s(weights: tuple[float, float, float, float]):
    given, anchors = boxes(30), boxes(30, seed=1)
    coder = BoxCoder(weights=weights)
    deltas = encode(given, anchors, weights)
    torch.testing.assert_close(deltas, coder.encode_single(given, anchors))
    torch.testing.assert_close(decode(deltas, anchors, weights), coder.decode_single(deltas, anchors))


def test_decoding_takes_back_encoding():
    given, anchors = boxes(30), boxes(30, seed=1)
    torch.testing.assert_close(decode(encode(given, anchors, WEIGHTS), anchors, WEIGHTS), given, rtol=1e-4, atol=1e-4)


def test_a_wild_delta_gives_a_finite_box_of_known_size():
    x1, _, x2, _ = decode(torch.tensor([[0.0, 0.0, 1e4, 0.0]]), torch.tensor([[0.0, 0.0, 16.0, 16.0]])).unbind(-1)
    assert (x2 - x1).item() == pytest.approx(1000.0, rel=1e-5)


def test_a_box_without_extent_has_finite_deltas():
    anchors = torch.tensor([[0.0, 0.0, 16.0, 16.0]])
    assert encode(torch.zeros(1, 4), anchors).isfinite().all()
    assert encode(anchors, torch.zeros(1, 4)).isfinite().all()
