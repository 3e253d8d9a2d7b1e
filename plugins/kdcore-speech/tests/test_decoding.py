from __future__ import annotations

import torch
from torch import Tensor

from kdcore_speech.decoding import frames_needed, greedy, repeats


def path(*labels: int, classes: int = 4) -> Tensor:
    """Logits (1, T, classes) whose best path this is."""
    return torch.nn.functional.one_hot(torch.tensor([labels]), classes).float()


def said(logits: Tensor, frames: int | None = None, blank: int = 0) -> list[int]:
    found = greedy(logits, torch.tensor([logits.shape[1] if frames is None else frames]), blank)[0].tolist()
    count = sum(label >= 0 for label in found)
    assert found[count:] == [-100] * (len(found) - count)
    return found[:count]


def naive(labels: list[int], blank: int) -> list[int]:
    collapsed = [label for i, label in enumerate(labels) if i == 0 or labels[i - 1] != label]
    return [label for label in collapsed if label != blank]


def test_repeats_and_blanks_are_taken_out():
    assert said(path(0, 1, 1, 0, 1, 2, 2, 3, 0)) == [1, 1, 2, 3]
    assert said(path(0, 0, 0)) == []
    assert said(path(3, 3, 3)) == [3]


def test_any_label_may_be_the_blank():
    assert said(path(3, 0, 3, 0, 0, 1), blank=3) == [0, 0, 1]


def test_frames_behind_the_end_say_nothing():
    assert said(path(1, 2, 3, 3), frames=2) == [1, 2]


def test_as_collapsed_one_by_one():
    logits = torch.randn(20, 11, 4, generator=torch.Generator().manual_seed(0))
    frames = torch.randint(1, 12, (20,), generator=torch.Generator().manual_seed(1))
    found = greedy(logits, frames, 2)
    assert found.shape == (20, 11)
    for row, count in enumerate(frames.tolist()):
        expected = naive(logits[row, :count].argmax(-1).tolist(), 2)
        assert found[row].tolist() == expected + [-100] * (11 - len(expected))


def test_a_repeat_needs_a_frame_more():
    tokens = torch.tensor([[1, 1, 1, 2], [1, 2, 1, -100], [3, 3, -100, -100], [-100, -100, -100, -100]])
    assert repeats(tokens).tolist() == [2, 0, 1, 0]
    assert frames_needed(tokens).tolist() == [6, 3, 3, 0]
