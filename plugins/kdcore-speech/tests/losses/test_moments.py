from __future__ import annotations

import re

import pytest
import torch
from torch import Tensor

from kdcore_speech.losses.moments import Moments, moments
from recognised import BLANK, LABELS, heard, said


def of(student: Tensor, teacher: Tensor, blank: int = BLANK) -> Moments:
    full = [{"logits": x, "frames": torch.full((len(x),), x.shape[1])} for x in (student, teacher)]
    return moments(*full, blank)


def labels(found: Moments) -> list[int]:
    return found.teacher.argmax(-1)[0].tolist()


def naive(teacher: Tensor, given: int, size: int) -> Tensor:
    """One clip, (T', V), of ``given`` frames: at each of ``size`` moments the least blank frame whose middle falls on
    it,
    or else the one that covers the moment's middle."""
    rows = []
    for moment in range(size):
        inside = [t for t in range(given) if moment / size <= (t + 0.5) / given < (moment + 1) / size]
        covering = int((moment + 0.5) / size * given)
        rows.append(teacher[min(inside, key=lambda t: float(teacher[t].softmax(-1)[BLANK]), default=covering)])
    return torch.stack(rows)


def test_equal_rates_leave_the_teacher_as_it_is() -> None:
    student, teacher = said(7, 0), said(7, 1)
    found = moments(student, teacher, BLANK)
    counts = torch.arange(7) < student["frames"].unsqueeze(1)
    assert torch.equal(found.valid, counts)
    for ours, theirs in ((found.student, student["logits"]), (found.teacher, teacher["logits"])):
        assert torch.equal(ours, torch.where(counts.unsqueeze(-1), theirs, 0.0))


def test_a_slower_teacher_is_repeated() -> None:
    assert labels(of(torch.zeros(1, 6, LABELS), heard(0, BLANK, 4))) == [0, 0, BLANK, BLANK, 4, 4]


def test_of_a_faster_teacher_no_label_is_lost() -> None:
    teacher = heard(0, BLANK, BLANK, 1, BLANK, BLANK, 3, 3)
    assert labels(of(torch.zeros(1, 4, LABELS), teacher)) == [0, 1, BLANK, 3]
    assert labels(of(torch.zeros(1, 2, LABELS), teacher)) == [0, 3]


def test_the_blank_is_where_the_data_has_it() -> None:
    assert labels(of(torch.zeros(1, 1, LABELS), heard(0, 3, certain=5.0), blank=3)) == [0]
    assert labels(of(torch.zeros(1, 1, LABELS), heard(0, 3, certain=5.0), blank=0)) == [3]


@pytest.mark.parametrize("given", [1, 3, 5, 6, 7, 9, 11, 13, 14, 20])
def test_any_rate_by_a_slow_formula(given: int) -> None:
    student, teacher = said(6, 0), said(given, 1)
    found = moments(student, teacher, BLANK)
    for clip in range(3):
        ours, theirs = int(student["frames"][clip]), int(teacher["frames"][clip])
        assert found.valid[clip].tolist() == [t < ours for t in range(6)]
        assert torch.equal(found.teacher[clip][:ours], naive(teacher["logits"][clip], theirs, ours))
        assert not found.teacher[clip][ours:].any()


def test_a_clip_is_heard_the_same_whatever_it_was_padded_to() -> None:
    student, teacher = said(6, 0), said(11, 1)
    alone = [
        {"logits": signals["logits"][1:2, : int(signals["frames"][1])], "frames": signals["frames"][1:2]}
        for signals in (student, teacher)
    ]
    whole, one = moments(student, teacher, BLANK), moments(*alone, BLANK)
    size = one.teacher.shape[1]
    assert torch.equal(whole.teacher[1, :size], one.teacher[0])


def test_what_lies_behind_a_clip_is_never_heard() -> None:
    teacher = {"logits": heard(BLANK, BLANK, BLANK, 0), "frames": torch.tensor([3])}
    student = {"logits": torch.zeros(1, 2, LABELS), "frames": torch.tensor([2])}
    found = moments(student, teacher, BLANK)
    assert found.teacher.argmax(-1).tolist() == [[BLANK, BLANK]]


def test_of_equally_loud_frames_the_first_is_heard() -> None:
    assert labels(of(torch.zeros(1, 1, LABELS), heard(BLANK, 4, 1))) == [4]


def test_half_precision_is_upcast_and_double_stays() -> None:
    assert of(torch.zeros(1, 2, LABELS).bfloat16(), heard(0, 1).half()).student.dtype == torch.float32
    assert of(torch.zeros(1, 2, LABELS).double(), heard(0, 1)).student.dtype == torch.float64


def test_other_vocabularies_are_refused() -> None:
    message = (
        "the student has 4 labels, the teacher 5: give the data the teacher's vocabulary (`data.vocabulary`) and train "
        "the student on it"
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        of(torch.zeros(1, 2, 4), heard(0, 1))
