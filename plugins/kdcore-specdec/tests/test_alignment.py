from __future__ import annotations

import torch

from kdcore_specdec.alignment import causal_mask, earlier, has_after, has_before, later

ROW = torch.tensor([[1, 2, 3, 4]])
SEGMENT = torch.tensor([[1, 1, 2, 0]])


def test_later_holds_what_was_before() -> None:
    assert later(ROW, 1).tolist() == [[0, 1, 2, 3]]
    assert later(ROW, 3).tolist() == [[0, 0, 0, 1]]
    assert later(ROW, 0) is ROW


def test_earlier_holds_what_comes_after() -> None:
    assert earlier(ROW, 1).tolist() == [[2, 3, 4, 0]]
    assert earlier(ROW, 3).tolist() == [[4, 0, 0, 0]]
    assert earlier(ROW, 0) is ROW


def test_moving_further_than_the_row_leaves_nothing() -> None:
    assert later(ROW, 4).tolist() == [[0] * 4]
    assert earlier(ROW, 5).tolist() == [[0] * 4]


def test_hidden_states_and_masks_move_like_tokens() -> None:
    hidden = torch.arange(8.0).view(1, 4, 2)
    assert later(hidden, 2)[0, 2].tolist() == [0.0, 1.0]
    assert earlier(ROW > 3, 1).tolist() == [[False, False, True, False]]


def test_gradients_come_back_to_where_they_belong() -> None:
    x = torch.ones(1, 4, requires_grad=True)
    (later(x, 1) * torch.tensor([[1.0, 2.0, 3.0, 4.0]])).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [[2.0, 3.0, 4.0, 0.0]]


def test_before_and_after_stay_within_the_row() -> None:
    assert has_before(ROW, None).tolist() == [[False, True, True, True]]
    assert has_before(ROW, None, 2).tolist() == [[False, False, True, True]]
    assert has_after(ROW, None).tolist() == [[True, True, True, False]]
    assert has_after(ROW, None, 0).tolist() == [[True] * 4]


def test_before_and_after_stay_within_the_document_and_out_of_the_padding() -> None:
    assert has_before(ROW, SEGMENT).tolist() == [[False, True, False, False]]
    assert has_after(ROW, SEGMENT).tolist() == [[True, False, False, False]]
    assert has_after(ROW, SEGMENT, 0).tolist() == [[True, True, True, False]]
    two = torch.tensor([[1, 1, 0, 0]])
    assert not has_before(ROW, two)[0, 3]


def test_a_query_sees_what_is_before_it_in_its_document_and_has_a_feature() -> None:
    seen = has_before(ROW, SEGMENT)
    assert causal_mask(ROW, SEGMENT, seen)[0, 0].int().tolist() == [
        [1, 0, 0, 0],  # itself, although it has no feature
        [0, 1, 0, 0],
        [0, 0, 1, 0],
        [0, 0, 0, 1],
    ]
    assert causal_mask(ROW, None, has_before(ROW, None))[0, 0].int().tolist() == [
        [1, 0, 0, 0],
        [0, 1, 0, 0],
        [0, 1, 1, 0],
        [0, 1, 1, 1],
    ]
