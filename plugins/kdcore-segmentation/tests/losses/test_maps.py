"""Labels and masks at a map's size, unit vectors, refusals."""

from __future__ import annotations

import math
import re

import pytest
import torch
from torch import nn

from kdcore_segmentation.losses.maps import check_maps, labels_at, mask_at, through, unit

SIZE = torch.Size([2, 3])


def test_labels_of_the_maps_size_are_as_they_are():
    labels = torch.tensor([[[0, 1, 2], [3, -100, 4]]])
    assert labels_at({"labels": labels}, SIZE, "ifvd") is labels


def test_labels_are_taken_from_the_nearest_position():
    labels = torch.arange(24).view(1, 4, 6)
    assert labels_at({"labels": labels}, SIZE, "ifvd").tolist() == [[[0, 2, 4], [12, 14, 16]]]


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.uint8])
def test_the_type_of_the_labels_stays_and_large_ones_are_exact(dtype: torch.dtype):
    labels = torch.full((1, 4, 6), 255, dtype=dtype)
    found = labels_at({"labels": labels}, SIZE, "ifvd")
    assert found.dtype == dtype
    assert found.unique().tolist() == [255]


def test_what_the_mask_leaves_out_has_no_label():
    labels = torch.ones(1, 2, 3, dtype=torch.int64)
    mask = torch.tensor([[[True, False, True], [True, True, False]]])
    found = labels_at({"labels": labels, "mask": mask}, SIZE, "ifvd")
    assert found.tolist() == [[[1, -100, 1], [1, 1, -100]]]


def test_a_mask_is_taken_from_the_nearest_position():
    mask = torch.zeros(1, 4, 6, dtype=torch.bool)
    mask[0, 2, 4] = True
    found = mask_at({"mask": mask}, SIZE, 1)
    assert found is not None
    assert found.tolist() == [[[False, False, False], [False, False, True]]]


def test_without_a_mask_there_is_none():
    assert mask_at({}, SIZE, 1) is None
    assert mask_at({"mask": None}, SIZE, 1) is None


def test_no_labels_are_named():
    with pytest.raises(KeyError, match="ifvd reads the batch's `labels`, which this data does not give"):
        labels_at({}, SIZE, "ifvd")


@pytest.mark.parametrize("labels", [torch.zeros(2, dtype=torch.int64), torch.zeros(2, 2, 3)])
def test_labels_that_are_no_integer_map_are_refused(labels: torch.Tensor):
    said = f"cirkd reads integer labels (N, H, W), the batch's are {labels.dtype} of shape {tuple(labels.shape)}"
    with pytest.raises(ValueError, match=re.escape(said)):
        labels_at({"labels": labels}, SIZE, "cirkd")


def test_a_mask_that_does_not_fit_the_labels_is_refused():
    batch = {"labels": torch.zeros(1, 4, 6, dtype=torch.int64), "mask": torch.ones(1, 2, 3, dtype=torch.bool)}
    said = "the batch's `mask` has shape (1, 2, 3), its `labels` (1, 4, 6)"
    with pytest.raises(ValueError, match=re.escape(said)):
        labels_at(batch, SIZE, "ifvd")


@pytest.mark.parametrize("shape", [(2, 4), (3, 4, 6)])
def test_a_mask_of_other_samples_is_refused(shape: tuple[int, ...]):
    said = f"the batch's `mask` has shape {shape}, maps of 2 samples take (2, H, W)"
    with pytest.raises(ValueError, match=re.escape(said)):
        mask_at({"mask": torch.ones(shape, dtype=torch.bool)}, SIZE, 2)


@pytest.mark.parametrize(
    ("student", "teacher", "said"),
    [
        ((2, 3), (2, 3, 4, 4), "the student's signal has shape (2, 3); this loss compares maps (N, C, H, W)"),
        ((2, 3, 4, 4), (2, 9, 3), "the teacher's signal has shape (2, 9, 3); this loss compares maps (N, C, H, W)"),
        ((2, 3, 4, 4), (2, 3, 8, 8), "`resize: student` or `resize: teacher` where spatial sizes differ"),
        ((2, 3, 4, 4), (1, 3, 4, 4), "the student's map has shape (2, 3, 4, 4), the teacher's (1, 3, 4, 4)"),
        ((2, 3, 4, 4), (2, 5, 4, 4), "give the tap a projector, such as `project: conv1x1`, where channels differ"),
    ],
)
def test_maps_that_cannot_be_compared_are_refused(student: tuple[int, ...], teacher: tuple[int, ...], said: str):
    with pytest.raises(ValueError, match=re.escape(said)):
        check_maps(torch.zeros(student), torch.zeros(teacher), channels=True)


def test_channels_may_differ_where_the_loss_says_so():
    check_maps(torch.zeros(2, 3, 4, 4), torch.zeros(2, 5, 4, 4), channels=False)


def test_unit_vectors_have_length_one_whatever_their_type():
    x = torch.randn(2, 5, 3, dtype=torch.bfloat16)
    found = unit(x)
    assert found.dtype == torch.float32
    assert found.norm(dim=1).sub(1).abs().max() < 1e-6
    assert unit(x.double()).dtype == torch.float64


def test_a_dead_vector_has_no_direction_and_no_gradient():
    x = torch.tensor([[3.0, 4.0], [0.0, 0.0], [1e-9, 0.0]], requires_grad=True)
    found = unit(x)
    assert found.tolist() == [[pytest.approx(0.6), pytest.approx(0.8)], [0.0, 0.0], [0.0, 0.0]]
    (found * torch.tensor([1.0, 2.0])).sum().backward()
    assert x.grad is not None
    assert not x.grad[1:].any()
    assert math.isclose(x.grad[0].norm().item(), abs(0.6 * 2 - 0.8 * 1) / 5, rel_tol=1e-5)


def test_a_part_runs_in_the_type_of_its_weights_and_gives_float32():
    linear, x = nn.Linear(3, 2), torch.randn(4, 3)
    exact = through(linear, x.bfloat16())
    assert exact.dtype == torch.float32
    assert torch.equal(exact, linear(x.bfloat16().float()))
    half = through(linear.bfloat16(), x)
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, through(linear.float(), x), rtol=0.05, atol=0.05)
    assert torch.equal(through(nn.Identity(), x.bfloat16()), x.bfloat16().float())
