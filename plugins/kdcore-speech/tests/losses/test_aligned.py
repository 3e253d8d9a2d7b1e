"""The teacher's frames beside the student's, clip by clip."""

from __future__ import annotations

import math

import pytest
import torch

from embedded import FRAMES, THEIR_FRAMES, embedded, nearest, normal, spoilt
from kdcore_speech.losses.aligned import aligned, check_widths, frame_pairs


def test_each_frame_gets_the_one_that_is_nearest_in_time():
    theirs = normal(0, 4, 14, 5)
    found = aligned(theirs, THEIR_FRAMES, FRAMES, 9)
    assert found.shape == (4, 9, 5)
    for clip, count in enumerate(FRAMES.tolist()):
        for moment in range(count):
            assert torch.equal(found[clip, moment], theirs[clip, nearest(clip, moment)]), (clip, moment)


def test_equally_many_frames_stay_as_they_are():
    theirs = normal(0, 4, 12, 5)
    found = aligned(theirs, FRAMES, FRAMES, 9)
    for clip, count in enumerate(FRAMES.tolist()):
        assert torch.equal(found[clip, :count], theirs[clip, :count])


def test_how_far_a_clip_is_padded_does_not_matter():
    theirs = normal(0, 4, 14, 5)
    longer = torch.cat([theirs, normal(1, 4, 6, 5)], 1)
    found, again = (aligned(x, THEIR_FRAMES, FRAMES, size) for x, size in ((theirs, 9), (longer, 15)))
    for clip, count in enumerate(FRAMES.tolist()):
        assert torch.equal(found[clip, :count], again[clip, :count])


def test_fewer_frames_are_repeated_and_codes_of_any_type_go_with_them():
    codes = torch.tensor([[3, 7, 200, 0]], dtype=torch.uint8)
    found = aligned(codes, torch.tensor([3], dtype=torch.int32), torch.tensor([6]), 8)
    assert found.dtype == torch.uint8
    assert found[0, :6].tolist() == [3, 3, 7, 7, 200, 200]


def test_pairs_are_hidden_behind_the_students_end():
    given = embedded((5, 5))
    plain = frame_pairs(given["student"], given["teacher"])
    for rubbish in (math.nan, math.inf, 1e30):
        ours, theirs, mask = frame_pairs(spoilt(given["student"], rubbish), spoilt(given["teacher"], rubbish))
        assert mask.sum(1).tolist() == FRAMES.tolist()
        assert torch.equal(ours, plain[0])
        assert torch.equal(theirs, plain[1])
        assert ours[~mask].abs().sum() == theirs[~mask].abs().sum() == 0


def test_half_precision_becomes_float32_and_double_stays():
    given = embedded()
    half, double = (
        {**given["student"], "feature": given["student"]["feature"].to(dtype)}
        for dtype in (torch.bfloat16, torch.float64)
    )
    assert frame_pairs(half, given["teacher"])[0].dtype == torch.float32
    assert frame_pairs(double, given["teacher"])[0].dtype == torch.float64


@pytest.mark.parametrize("role", ["student", "teacher"])
def test_a_feature_without_frames_is_refused(role: str):
    given = embedded()
    given[role] = {**given[role], "feature": torch.zeros(4, 6)}
    words = rf"the {role}'s feature has shape \(4, 6\); frames \(N, T, D\) are compared: tap a place where"
    with pytest.raises(ValueError, match=words):
        frame_pairs(given["student"], given["teacher"])


def test_widths_that_differ_are_refused_with_a_hint():
    check_widths(torch.zeros(2, 3, 4), torch.zeros(2, 5, 4), "never said")
    words = "a frame of the student has 4 features, one of the teacher 5: do this"
    with pytest.raises(ValueError, match=words):
        check_widths(torch.zeros(2, 3, 4), torch.zeros(2, 3, 5), "do this")
