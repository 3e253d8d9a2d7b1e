"""Labels and masks at a map's size, and refusals."""

from __future__ import annotations

import re

import pytest
import torch

from kdcore_segmentation.losses.maps import labels_at, mask_at

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
