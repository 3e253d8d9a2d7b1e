"""DM-Codec: channels over time, against a slow formula."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from embedded import FRAMES, embedded, nearest, spoilt
from kdcore_speech.losses.dm_codec import DMCodec


def slowly(ours: Tensor, theirs: Tensor, clip: int) -> float:
    """The term of a clip, channel by channel."""
    moments, channels = range(int(FRAMES[clip])), range(ours.shape[-1])
    added = 0.0
    for d in channels:
        s = [ours[clip, i, d].item() for i in moments]
        t = [theirs[clip, nearest(clip, i), d].item() for i in moments]
        dot = sum(a * b for a, b in zip(s, t, strict=True))
        angle = dot / math.sqrt(sum(a * a for a in s)) / math.sqrt(sum(b * b for b in t))
        added -= math.log(1 / (1 + math.exp(-angle)))
    return added / len(channels)


def test_the_value_is_that_of_the_definition():
    given = embedded((5, 5))
    total = DMCodec()(given["student"], given["teacher"], {})
    assert total.count.item() == 4
    expected = sum(slowly(given["student"]["feature"], given["teacher"]["feature"], clip) for clip in range(4))
    assert total.sum.item() == pytest.approx(expected, rel=1e-5)


def test_by_hand():
    frames = torch.tensor([2])
    student = {"feature": torch.tensor([[[3.0, 1.0], [4.0, 0.0]]]), "frames": frames}
    teacher = {"feature": torch.tensor([[[6.0, 0.0], [8.0, 5.0]]]), "frames": frames}
    total = DMCodec()(student, teacher, {})
    # over time the first channels are parallel, the second orthogonal
    assert total.sum.item() == pytest.approx(0.5 * (math.log(1 + math.exp(-1)) + math.log(2)), rel=1e-6)


def test_the_size_of_a_channel_does_not_matter_and_its_course_does():
    given = embedded((5, 5))
    plain = DMCodec()(given["student"], given["teacher"], {}).sum.item()
    louder = {**given["student"], "feature": given["student"]["feature"] * torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0])}
    assert DMCodec()(louder, given["teacher"], {}).sum.item() == pytest.approx(plain, rel=1e-5)
    turned = {**given["student"], "feature": given["student"]["feature"].flip(1)}
    assert abs(DMCodec()(turned, given["teacher"], {}).sum.item() - plain) > 1e-3


def test_a_text_is_stretched_over_its_clip():
    ours, text = torch.randn(1, 6, 3), torch.randn(1, 2, 3)
    student = {"feature": ours, "frames": torch.tensor([6])}
    stretched = {"feature": text.repeat_interleave(3, 1), "frames": torch.tensor([6])}
    found = DMCodec()(student, {"feature": text, "frames": torch.tensor([2])}, {})
    assert found.sum.item() == pytest.approx(DMCodec()(student, stretched, {}).sum.item(), rel=1e-6)


def test_a_silent_channel_has_no_direction():
    frames = torch.tensor([3])
    student = torch.zeros(1, 3, 1, requires_grad=True)
    total = DMCodec()({"feature": student, "frames": frames}, {"feature": torch.ones(1, 3, 1), "frames": frames}, {})
    total.sum.backward()
    assert total.sum.item() == pytest.approx(math.log(2), rel=1e-6)
    assert student.grad is not None
    assert not student.grad.any()


@pytest.mark.parametrize("rubbish", [math.nan, math.inf, 1e30])
def test_what_is_behind_a_clip_reaches_nothing(rubbish: float):
    given = embedded((5, 5))
    plain = DMCodec()(given["student"], given["teacher"], {})
    student = spoilt(given["student"], rubbish)
    student["feature"].requires_grad_()
    total = DMCodec()(student, spoilt(given["teacher"], rubbish), {})
    total.sum.backward()
    assert total.sum.item() == pytest.approx(plain.sum.item(), rel=1e-6)
    assert student["feature"].grad is not None
    assert student["feature"].grad.isfinite().all()


def test_widths_must_be_equal():
    given = embedded((6, 5))
    with pytest.raises(ValueError, match="6 features, one of the teacher 5: give the tap a `project: linear`"):
        DMCodec()(given["student"], given["teacher"], {})
