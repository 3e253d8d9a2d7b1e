from __future__ import annotations

import io
import random

import numpy as np
import torch

from kdcore.rng import get_state, set_state


def draw() -> tuple[float, float, float, float]:
    return random.random(), random.gauss(0, 1), float(np.random.rand()), float(torch.rand(()))


def test_what_is_drawn_after_a_state_is_drawn_again() -> None:
    random.gauss(0, 1)  # leaves the other of a pair behind, which is part of the state
    state = get_state()
    first = [draw() for _ in range(3)]
    set_state(state)
    assert [draw() for _ in range(3)] == first
    assert draw() != first[0]


def test_a_state_survives_a_file_that_may_hold_no_code() -> None:
    file = io.BytesIO()
    torch.save(get_state(), file)
    first = draw()
    file.seek(0)
    set_state(torch.load(file, weights_only=True))
    assert draw() == first
