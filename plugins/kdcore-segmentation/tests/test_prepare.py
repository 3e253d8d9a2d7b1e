from __future__ import annotations

import pytest
import torch
from kdcore.losses.kl import KL
from torch import nn

from kdcore_segmentation.prepare import LabelledPixels

LABELS = torch.tensor([[[0, -100], [2, 1]]])


def prepared(**batch: object) -> dict[str, object]:
    def models(name: str) -> nn.Module:
        raise AssertionError("no model is needed")

    return LabelledPixels()(dict(batch), models)


def test_the_mask_is_where_labels_are():
    batch = prepared(labels=LABELS, image=torch.zeros(1))
    assert batch["mask"].tolist() == [[[True, False], [True, True]]]
    assert set(batch) == {"labels", "image", "mask"}


def test_the_batch_it_is_given_stays_as_it_was():
    given = {"labels": LABELS}
    LabelledPixels()(given, None)
    assert set(given) == {"labels"}


def test_a_mask_is_narrowed():
    mask = torch.tensor([[[False, True], [True, False]]])
    assert prepared(labels=LABELS, mask=mask)["mask"].tolist() == [[[False, False], [True, False]]]
    assert mask.tolist() == [[[False, True], [True, False]]]


def test_views_have_masks_of_their_own():
    other = torch.tensor([[[-100, 0], [-100, -100]]])
    batch = prepared(labels=LABELS, views={"crop": {"labels": other}, "colour": {"image": torch.zeros(1)}})
    assert batch["views"]["crop"]["mask"].tolist() == [[[False, True], [False, False]]]
    assert "mask" not in batch["views"]["colour"]  # it has the mask of the batch


def test_pixel_wise_distillation_then_counts_labelled_pixels_only():
    torch.manual_seed(0)
    student, teacher = torch.randn(1, 3, 2, 2), torch.randn(1, 3, 2, 2)
    loss = KL()
    loss.class_axis = 1
    total = loss({"logits": student}, {"logits": teacher}, prepared(labels=LABELS))
    p = teacher.softmax(1)
    terms = (p * (p.log() - student.log_softmax(1))).sum(1)
    assert total.count == 3
    torch.testing.assert_close(total.sum, terms.sum() - terms[0, 0, 1])


def test_labels_are_needed():
    with pytest.raises(KeyError, match="`labelled` reads the batch's `labels`, which this data does not give"):
        prepared(image=torch.zeros(1))
