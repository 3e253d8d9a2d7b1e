from __future__ import annotations

import pytest
import torch

from kdcore_specdec.losses.ahead import ahead, feature_total, guess, target_at
from kdcore_specdec.losses.tokens import Tokens

BATCH = {
    "input_ids": torch.tensor([[1, 2, 3, 4, 5]]),
    "labels": torch.tensor([[2, 3, 4, 5, -100]]),
    "mask": torch.tensor([[True, True, False, True, True]]),
    "weight": torch.tensor([[1.0, 2.0, 3.0, 4.0, 5.0]]),
}
PREDICTS = torch.tensor([[False, True, True, True, True]])


def test_labels_mask_and_weight_come_from_where_the_guess_is_about() -> None:
    moved = ahead(BATCH, PREDICTS, 2)
    assert moved["labels"].tolist() == [[-100, 5, -100, -100, -100]]
    assert moved["mask"].tolist() == [[False, True, True, False, False]]
    assert moved["weight"].tolist() == [[3.0, 4.0, 5.0, 0.0, 0.0]]


def test_there_is_no_label_where_the_draft_has_nothing_to_go_by() -> None:
    assert ahead(BATCH, PREDICTS, 0)["labels"].tolist() == [[-100, 3, 4, 5, -100]]


def test_there_is_no_label_beyond_the_document() -> None:
    packed = {**BATCH, "segment": torch.tensor([[1, 1, 1, 2, 2]])}
    assert ahead(packed, PREDICTS, 1)["labels"].tolist() == [[-100, 4, -100, -100, -100]]


def test_a_batch_without_labels_is_refused() -> None:
    with pytest.raises(KeyError, match="a loss on tokens reads the batch's `labels`, which this data does not give"):
        ahead({"input_ids": BATCH["input_ids"]}, PREDICTS, 0)


def test_a_guess_is_its_step_with_its_head() -> None:
    student = {"unrolled": torch.randn(1, 3, 5, 4), "heads": torch.randn(3, 7, 4)}
    assert torch.equal(guess(student, 2)["hidden"], student["unrolled"][:, 2])
    assert torch.equal(guess(student, 2)["head"], student["heads"][2])


def test_the_target_is_taken_from_further_on_and_over_the_drafts_tokens() -> None:
    teacher = {"hidden": torch.randn(1, 5, 4), "head": torch.randn(7, 4)}
    found = target_at(teacher, torch.tensor([2, 5]), 1)
    assert torch.equal(found["hidden"][:, :4], teacher["hidden"][:, 1:])
    assert torch.equal(found["head"], teacher["head"][[2, 5]])
    assert target_at(teacher, torch.arange(7), 0)["head"] is teacher["head"]


def test_features_are_held_against_each_other_at_the_labelled_tokens() -> None:
    ours, theirs = torch.zeros(1, 5, 2), torch.full((1, 5, 2), 0.5)
    theirs[0, 1] = 3.0  # beyond 1 the square turns into a line: 2.5
    theirs[0, 2] = torch.nan  # masked
    total = feature_total(ours, theirs, Tokens({**BATCH, "labels": ahead(BATCH, PREDICTS, 0)["labels"]}), BATCH)
    assert total.count.item() == 2  # at 1 and 3
    assert total.sum.item() == pytest.approx(2.0 * 2.5 + 4.0 * 0.125)
