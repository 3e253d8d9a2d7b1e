"""The queues: their order, their end, and what is drawn from them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from kdcore_segmentation.losses.class_queue import ClassQueue


def numbered(*rows: list[int]) -> Tensor:
    """(classes, M, 1)."""
    return torch.tensor(rows, dtype=torch.float32).unsqueeze(2)


def held(queue: ClassQueue, label: int) -> list[float]:
    return queue.vectors[label, : queue.length, 0].tolist()


def test_only_what_is_kept_is_appended_in_its_order():
    queue = ClassQueue(2, 4, 1)
    queue.put(numbered([1, 2, 3], [4, 5, 6]), torch.tensor([[True, False, True], [False, False, False]]))
    assert (held(queue, 0), held(queue, 1)) == ([1, 3, 0, 0], [0, 0, 0, 0])
    assert queue.seen.tolist() == [2, 0]


def test_a_newer_vector_takes_the_place_of_the_oldest():
    queue = ClassQueue(1, 4, 1)
    for first in (1, 4, 7):
        queue.put(numbered([first, first + 1, first + 2]), torch.ones(1, 3, dtype=torch.bool))
    assert held(queue, 0) == [9, 6, 7, 8]
    assert queue.seen.tolist() == [9]


def test_what_is_not_kept_leaves_no_trace():
    queue = ClassQueue(1, 3, 1)
    queue.put(numbered([7, 8]), torch.zeros(1, 2, dtype=torch.bool))
    assert not queue.vectors.any()


def test_a_batch_that_overflows_a_queue_is_refused():
    said = "one batch adds up to 5 vectors of a class to a queue of 4: make the queue longer, or add fewer"
    with pytest.raises(ValueError, match=said):
        ClassQueue(1, 4, 1).put(torch.zeros(1, 5, 1), torch.ones(1, 5, dtype=torch.bool))


def test_all_that_is_held_is_drawn_and_nothing_else():
    queue = ClassQueue(2, 6, 1)
    queue.put(numbered([1, 2, 3], [9, 9, 9]), torch.tensor([[True] * 3, [False] * 3]))
    drawn, there = queue.draw(200)
    assert drawn.shape == (400, 1)
    assert set(drawn[:200, 0].tolist()) == {1.0, 2.0, 3.0}
    assert there.tolist() == [True] * 200 + [False] * 200
    counts = [(drawn[:200, 0] == value).sum().item() for value in (1, 2, 3)]
    assert min(counts) > 35


def test_the_last_place_of_a_full_queue_is_drawn_too():
    queue = ClassQueue(1, 3, 1)
    queue.put(numbered([1, 2, 3]), torch.ones(1, 3, dtype=torch.bool))
    assert set(queue.draw(100)[0][:, 0].tolist()) == {1.0, 2.0, 3.0}


def test_a_chance_that_is_rounded_up_stays_inside(monkeypatch: pytest.MonkeyPatch):
    queue = ClassQueue(1, 3, 1)
    queue.put(numbered([1, 2, 3]), torch.tensor([[True, True, False]]))
    monkeypatch.setattr(torch, "rand", lambda *size, **_: torch.ones(size))
    assert queue.draw(1)[0].item() == 2.0


def test_draws_follow_torchs_generator():
    queue = ClassQueue(1, 50, 1)
    queue.put(numbered(list(range(50))), torch.ones(1, 50, dtype=torch.bool))
    torch.manual_seed(0)
    first, second = queue.draw(9)[0], queue.draw(9)[0]
    torch.manual_seed(0)
    assert torch.equal(queue.draw(9)[0], first)
    assert not torch.equal(first, second)


def test_a_state_dict_holds_all_of_it():
    queue, other = ClassQueue(1, 4, 2), ClassQueue(1, 4, 2)
    queue.put(torch.randn(1, 3, 2), torch.ones(1, 3, dtype=torch.bool))
    other.load_state_dict(queue.state_dict())
    for one in (queue, other):
        one.put(torch.ones(1, 2, 2), torch.ones(1, 2, dtype=torch.bool))
    assert torch.equal(queue.vectors, other.vectors)
    assert torch.equal(queue.seen, other.seen)


def test_nothing_waits_for_the_device():
    """On the meta device there are no values: whoever reads one gets an error."""
    queue = ClassQueue(3, 8, 2).to("meta")
    queue.put(torch.zeros(3, 4, 2, device="meta"), torch.ones(3, 4, dtype=torch.bool, device="meta"))
    drawn, there = queue.draw(5)
    assert (drawn.shape, there.shape) == ((15, 2), (15,))
