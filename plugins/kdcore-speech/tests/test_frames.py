from __future__ import annotations

import pytest
import torch

from kdcore_speech.frames import align, ceil_div, frame_mask


@pytest.mark.parametrize(("count", "by", "expected"), [(0, 3, 0), (1, 3, 1), (3, 3, 1), (4, 3, 2), (7, 1, 7)])
def test_ceil_div_of_numbers_and_tensors(count: int, by: int, expected: int):
    assert ceil_div(count, by) == expected
    assert ceil_div(torch.tensor([count, count]), by).tolist() == [expected, expected]


def test_the_mask_has_the_first_frames_of_each():
    mask = frame_mask(torch.tensor([0, 2, 3]), 3)
    assert mask.tolist() == [[False, False, False], [True, True, False], [True, True, True]]


def test_a_signal_of_our_size_is_itself():
    signal = torch.randn(2, 5, 3)
    assert align(signal, 5) is signal


def test_half_as_many_frames_are_every_second_one():
    signal = torch.arange(8.0).view(1, 8, 1)
    assert align(signal, 4).flatten().tolist() == [1, 3, 5, 7]


def test_twice_as_many_frames_repeat_each():
    signal = torch.arange(3.0).view(1, 3, 1)
    assert align(signal, 6).flatten().tolist() == [0, 0, 1, 1, 2, 2]


@pytest.mark.parametrize(("given", "size"), [(7, 4), (4, 7), (10, 3), (3, 10), (9, 9), (1, 5)])
def test_each_frame_is_the_one_in_which_its_middle_lies(given: int, size: int):
    signal = torch.arange(float(given)).view(1, given)
    naive = [int((i + 0.5) / size * given) for i in range(size)]
    assert align(signal, size).flatten().tolist() == naive


def test_gradients_go_to_the_frames_that_are_taken():
    signal = torch.randn(1, 4, 2, requires_grad=True)
    align(signal, 2).sum().backward()
    assert signal.grad is not None
    assert signal.grad[0, :, 0].tolist() == [0, 1, 0, 1]
