from __future__ import annotations

import pytest
import torch

from kdcore_specdec.vocabulary import known, most_frequent, offsets, spread, tokens_of


def test_the_most_frequent_tokens_in_the_order_of_their_ids() -> None:
    assert most_frequent([5, 0, 9, 1, 7], 3).tolist() == [0, 2, 4]


def test_of_equal_counts_the_lower_id() -> None:
    assert most_frequent([1, 2, 1, 2, 1], 3).tolist() == [0, 1, 3]
    assert most_frequent([0] * 4, 2).tolist() == [0, 1]


@pytest.mark.parametrize("size", [0, 4, -1])
def test_a_size_that_is_none_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match=f"draft_vocabulary={size} keeps that many of the target's 3 tokens: give 1 "):
        most_frequent([1, 2, 3], size)


def test_offsets_and_mask_are_those_of_the_speculators_format() -> None:
    tokens = torch.tensor([0, 2, 4])
    d2t, t2d = offsets(tokens), known(tokens, 6)
    assert d2t.tolist() == [0, 1, 2]
    assert [i + int(d2t[i]) for i in range(3)] == [0, 2, 4]  # what vLLM does with a draft's id
    assert t2d.dtype == torch.bool
    assert t2d.nonzero()[:, 0].tolist() == [0, 2, 4]
    assert tokens_of(d2t).tolist() == [0, 2, 4]


def test_logits_are_spread_over_the_targets_vocabulary() -> None:
    spreaded = spread(torch.tensor([[1.0, 2.0]]), torch.tensor([1, 3]), 5)
    assert spreaded.tolist() == [[-torch.inf, 1.0, -torch.inf, 2.0, -torch.inf]]


def test_a_whole_vocabulary_is_left_alone() -> None:
    logits = torch.randn(2, 3)
    assert spread(logits, torch.arange(3), 3) is logits


def test_spreading_has_the_gradient_of_what_was_spread() -> None:
    logits = torch.randn(2, 2, requires_grad=True)
    spread(logits, torch.tensor([1, 3]), 5)[:, [1, 3]].pow(2).sum().backward()
    torch.testing.assert_close(logits.grad, 2 * logits.detach())
