"""Equal positions, known images, objects that a teacher sees."""

from __future__ import annotations

import re

import pytest
import torch

from kdcore_detection.losses.positions import boxes_known, check_positions, seen


def test_equal_shapes_pass():
    check_positions(torch.zeros(2, 5, 3), torch.zeros(2, 5, 3), "logits")


def test_other_strides_are_refused_with_what_to_do():
    said = (
        "the student's `logits` have shape (2, 5, 3), the teacher's (2, 7, 3): this loss compares position by "
        "position, and these nets have other strides or anchors. Build both with the same levels of the pyramid and "
        "the same anchors, or distil features, which can be resized"
    )
    with pytest.raises(ValueError, match=re.escape(said)):
        check_positions(torch.zeros(2, 5, 3), torch.zeros(2, 7, 3), "logits")


def test_other_outputs_are_refused_with_what_to_do():
    said = (
        "the student's `distribution` have shape (2, 5, 4, 9), the teacher's (2, 5, 4, 17): build both nets with the "
        "same classes and the same outputs at a position"
    )
    with pytest.raises(ValueError, match=re.escape(said)):
        check_positions(torch.zeros(2, 5, 4, 9), torch.zeros(2, 5, 4, 17), "distribution")


def test_boxes_are_known_unless_the_batch_says_otherwise():
    labels = torch.tensor([[0, -100], [-100, -100]])
    assert boxes_known({"box_labels": labels}).tolist() == [True, True]
    known = torch.tensor([False, True])
    assert boxes_known({"box_labels": labels, "boxes_known": known}) is known


def test_an_object_is_seen_where_any_class_has_more_than_a_twentieth():
    logits = torch.tensor([0.04, 0.06, 0.9, 0.001, 0.051, 0.02]).logit().view(1, 3, 2)
    assert seen(logits).item() == 3
    assert seen(logits.bfloat16()).dtype == torch.int64


def test_an_image_in_which_nothing_is_seen_counts_one():
    nothing = torch.full((2, 4, 3), -10.0)
    assert seen(nothing).item() == 2
    much = torch.full((1, 4, 3), 10.0)
    assert seen(torch.cat([nothing, much])).item() == 2 + 4  # so that parts of a batch add up
    assert seen(nothing[:0]).item() == 0
