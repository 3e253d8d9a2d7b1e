"""EffAudioCap: each clip against all others, by a slow formula."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from embedded import normal
from kdcore_speech.losses.audiocap import EncoderContrast


def made(ours: Tensor, theirs: Tensor, **options: Any) -> EncoderContrast:
    torch.manual_seed(0)
    loss = EncoderContrast(**{"width": 3, **options})
    example = {"student": {"embedding": ours}, "teacher": {"embedding": theirs}}
    loss.setup(example, {}, dict[str, nn.Module]().__getitem__)
    return loss


def slowly(ours: list[list[float]], theirs: list[list[float]], temperature: float) -> float:
    """Of vectors in the common space."""

    def cosine(a: list[float], b: list[float]) -> float:
        dot = sum(x * y for x, y in zip(a, b, strict=True))
        return dot / math.sqrt(sum(x * x for x in a)) / math.sqrt(sum(y * y for y in b))

    scores = [[cosine(s, t) / temperature for t in theirs] for s in ours]
    n, added = len(ours), 0.0
    for i in range(n):
        row = math.log(sum(math.exp(scores[i][j]) for j in range(n))) - scores[i][i]
        column = math.log(sum(math.exp(scores[j][i]) for j in range(n))) - scores[i][i]
        added += 0.5 * (row + column)
    return added


@pytest.mark.parametrize("temperature", [0.07, 1.0])
def test_the_value_is_that_of_the_definition(temperature: float):
    ours, theirs = normal(1, 5, 6), normal(2, 5, 4)
    loss = made(ours, theirs, temperature=temperature)
    total = loss({"embedding": ours}, {"embedding": theirs}, {})
    with torch.no_grad():
        expected = slowly(loss.ours(ours).tolist(), loss.theirs(theirs).tolist(), temperature)
    assert total.sum.item() == pytest.approx(expected, rel=1e-4)
    assert total.count.item() == 5


def test_both_maps_and_the_temperature_learn():
    ours, theirs = normal(1, 5, 6), normal(2, 5, 4)
    loss = made(ours, theirs)
    loss({"embedding": ours}, {"embedding": theirs}, {}).sum.backward()
    names = {name for name, parameter in loss.named_parameters() if parameter.grad is not None and parameter.grad.any()}
    assert names == {"log_scale", "ours.weight", "ours.bias", "theirs.weight", "theirs.bias"}


def test_learning_brings_clips_to_their_own():
    theirs = normal(2, 6, 4)
    student = nn.Parameter(normal(1, 6, 5))
    loss = made(student.detach(), theirs, width=4)
    optimizer = torch.optim.Adam([student, *loss.parameters()], lr=0.05)
    for _ in range(150):
        optimizer.zero_grad()
        loss({"embedding": student}, {"embedding": theirs}, {}).sum.backward()
        optimizer.step()
    with torch.no_grad():
        near = (
            nn.functional.normalize(loss.ours(student), dim=1) @ nn.functional.normalize(loss.theirs(theirs), dim=1).T
        )
    assert near.argmax(1).tolist() == list(range(6))


def test_one_clip_alone_has_nothing_to_learn():
    ours = normal(1, 1, 6).requires_grad_()
    total = made(ours.detach(), normal(2, 1, 4))({"embedding": ours}, {"embedding": normal(2, 1, 4)}, {})
    total.sum.backward()
    assert total.sum.item() == pytest.approx(0.0, abs=1e-6)
    assert ours.grad is not None
    assert ours.grad.abs().max() < 1e-6


def test_frames_are_refused():
    words = r"the student's embedding has shape \(2, 7, 6\); \(N, D\) is wanted, one vector a clip: tap a place behind"
    loss = made(normal(1, 2, 6), normal(2, 2, 4))
    with pytest.raises(ValueError, match=words):
        loss({"embedding": normal(1, 2, 7, 6)}, {"embedding": normal(2, 2, 4)}, {})
    with pytest.raises(ValueError, match=r"the teacher's embedding has shape \(2, 7, 4\)"):
        loss({"embedding": normal(1, 2, 6)}, {"embedding": normal(2, 2, 7, 4)}, {})


def test_impossible_numbers_are_refused():
    with pytest.raises(ValueError, match="width=0: give at least 1"):
        EncoderContrast(width=0)
    with pytest.raises(ValueError, match=r"temperature=0\.0 is not above 0: similarities are divided by it"):
        EncoderContrast(temperature=0.0)
