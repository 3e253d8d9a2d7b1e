from __future__ import annotations

import pytest
import torch

from kdcore_speech.losses.clips import in_clip


def batch(*lengths: int, size: int = 1000) -> dict[str, torch.Tensor]:
    return {"audio": torch.zeros(len(lengths), size), "audio_lengths": torch.tensor(lengths)}


def test_a_frame_counts_whose_middle_lies_in_the_clip() -> None:
    # frames of 100 samples, with their middles at 50, 150, ...
    found = in_clip(batch(1000, 451, 450, 150, 151), 10)
    assert found.sum(1).tolist() == [10, 5, 4, 1, 2]
    assert found[1].tolist() == [True] * 5 + [False] * 5


def test_every_clip_has_a_first_frame() -> None:
    assert in_clip(batch(1000, 1), 3).tolist() == [[True, True, True], [True, False, False]]


def test_by_a_slow_formula() -> None:
    lengths = (997, 13, 500, 640)
    for size in (1, 7, 64, 333):
        wanted = [[t == 0 or (t + 0.5) / size < length / 1000 for t in range(size)] for length in lengths]
        assert in_clip(batch(*lengths), size).tolist() == wanted


def test_a_batch_without_sound() -> None:
    with pytest.raises(KeyError, match="tasks of speech read `audio`, the batch holds: audio_lengths"):
        in_clip({"audio_lengths": torch.tensor([3])}, 2)
