"""DistilHuBERT: each predicted layer, against a slow formula and against values on which others agree."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from embedded import FRAMES, embedded, nearest, spoilt
from kdcore_speech.losses.distilhubert import DistilHuBERT


def made(given: dict[str, Any], **options: Any) -> DistilHuBERT:
    torch.manual_seed(0)
    loss = DistilHuBERT(**options)
    loss.setup({"student": given["student"], "teacher": given["teacher"]}, {}, dict[str, nn.Module]().__getitem__)
    return loss


def slowly(predicted: Tensor, theirs: Tensor, cosine: float) -> float:
    """Frame by frame, feature by feature."""
    added = 0.0
    for clip, count in enumerate(FRAMES.tolist()):
        for moment in range(count):
            s, t = predicted[clip, moment].tolist(), theirs[clip, nearest(clip, moment)].tolist()
            distance = sum(abs(a - b) for a, b in zip(s, t, strict=True)) / len(t)
            dot = sum(a * b for a, b in zip(s, t, strict=True))
            angle = dot / math.sqrt(sum(a * a for a in s)) / math.sqrt(sum(b * b for b in t))
            added += distance - cosine * math.log(1 / (1 + math.exp(-angle)))
    return added


@pytest.mark.parametrize("cosine", [1.0, 0.3, 0.0])
def test_the_value_is_that_of_the_definition(cosine: float):
    given = embedded((5, 5))
    total = made(given, cosine=cosine, head=False)(given["student"], given["teacher"], {})
    assert total.count.item() == 9 + 5 + 2 + 7
    expected = slowly(given["student"]["feature"], given["teacher"]["feature"], cosine)
    assert total.sum.item() == pytest.approx(expected, rel=1e-5)


def test_the_head_predicts_and_learns():
    given = embedded((6, 5))
    loss = made(given)
    first, gelu, last = loss.head
    assert [type(part) for part in (first, gelu, last)] == [nn.Linear, nn.GELU, nn.Linear]
    predicted = last(gelu(first(given["student"]["feature"]))).detach()
    total = loss(given["student"], given["teacher"], {})
    assert total.sum.item() == pytest.approx(slowly(predicted, given["teacher"]["feature"], 1.0), rel=1e-5)
    total.sum.backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in loss.parameters())


def test_a_student_that_says_the_same_has_the_cosine_terms_floor():
    given = embedded((5, 5), rates=False)
    total = made(given, head=False)(given["teacher"], given["teacher"], {})
    assert (total.sum / total.count).item() == pytest.approx(math.log(1 + math.exp(-1)), rel=1e-6)


def test_a_frame_that_is_zero_has_a_finite_gradient():
    given = embedded((5, 5))
    student = torch.zeros(4, 9, 5, requires_grad=True)
    total = made(given, head=False)({**given["student"], "feature": student}, given["teacher"], {})
    total.sum.backward()
    assert student.grad is not None
    assert student.grad.isfinite().all()


@pytest.mark.parametrize("rubbish", [math.nan, math.inf])
def test_what_is_behind_a_clip_reaches_nothing(rubbish: float):
    given = embedded()
    loss = made(given)
    plain = loss(given["student"], given["teacher"], {})
    loss.zero_grad()
    student = spoilt(given["student"], rubbish)
    student["feature"].requires_grad_()
    total = loss(student, spoilt(given["teacher"], rubbish), {})
    total.sum.backward()
    assert total.sum.item() == pytest.approx(plain.sum.item(), rel=1e-6)
    assert student["feature"].grad is not None
    assert student["feature"].grad.isfinite().all()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in loss.parameters())


def test_a_negative_weight_is_refused():
    with pytest.raises(ValueError, match=r"cosine=-1\.0 is negative: it would drive student and teacher apart"):
        DistilHuBERT(cosine=-1.0)


def test_without_a_head_widths_must_be_equal():
    given = embedded((6, 5))
    words = (
        "a frame of the student has 6 features, one of the teacher 5: leave `head: true`, or give the tap a `project"
    )
    with pytest.raises(ValueError, match=words):
        made(given, head=False)(given["student"], given["teacher"], {})


@pytest.mark.skipif("KDCORE_REFERENCE" not in os.environ, reason="KDCORE_REFERENCE is unset")
def test_the_value_is_that_of_other_implementations():
    folder = Path(os.environ["KDCORE_REFERENCE"])
    case = json.loads((folder / "losses.json").read_text())["distilhubert"]
    with np.load(folder / "losses.npz", allow_pickle=False) as arrays:
        student, teacher = (
            torch.from_numpy(arrays[case["inputs"][f"{role}_features"]]) for role in ("student", "teacher")
        )
    student.requires_grad_()
    loss = DistilHuBERT(cosine=case["params"]["cosine_weight"], head=False)
    frames = torch.full((student.shape[0],), student.shape[2])
    # a slot is one layer, and the reference is the mean over all of them
    totals = [
        loss({"feature": student[:, i], "frames": frames}, {"feature": teacher[:, i], "frames": frames}, {})
        for i in range(student.shape[1])
    ]
    value = sum(total.sum for total in totals) / sum(total.count for total in totals)
    (gradient,) = torch.autograd.grad(value, student)
    assert value.item() == pytest.approx(case["value"], rel=1e-6)
    assert gradient.norm().item() == pytest.approx(case["grad_norm"], rel=1e-5)
