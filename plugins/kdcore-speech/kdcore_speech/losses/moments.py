"""The frames of a CTC teacher beside those of its student, who may make more or fewer of them."""

from __future__ import annotations

from typing import NamedTuple

import torch
from kdcore.losses.functional import hide, upcast
from kdcore.signals import Signals
from torch import Tensor

from kdcore_speech.frames import frame_mask


class Moments(NamedTuple):
    """What both nets say at the moments of the student's frames.

    Attributes:
        student: logits (N, T, V).
        teacher: logits (N, T, V).
        valid: bool (N, T), the moments that lie in the clip; logits are 0 at the others.
    """

    student: Tensor
    teacher: Tensor
    valid: Tensor


def moments(student: Signals, teacher: Signals, blank: int) -> Moments:
    """Logits of ``student`` and ``teacher``, each with its ``frames``, frame by frame of the student.

    Clip by clip, the frames of both that count cover the same sound. Where the teacher makes fewer of them, each is
    repeated. Where it makes more, the one that is least blank stands for all that fall on a frame of the student: a CTC
    net says most labels in a single frame, and a mean, or the nearest frame, would lose them. Two labels that fall on
    one frame become one in any case.

    Raises:
        ValueError: the vocabularies are of different size.
    """
    ours, theirs = upcast(student["logits"]), upcast(teacher["logits"])
    if ours.shape[-1] != theirs.shape[-1]:
        raise ValueError(
            f"the student has {ours.shape[-1]} labels, the teacher {theirs.shape[-1]}: give the data the teacher's "
            "vocabulary (`data.vocabulary`) and train the student on it"
        )
    size = ours.shape[1]
    valid, known = frame_mask(student["frames"], size), frame_mask(teacher["frames"], theirs.shape[1])
    theirs = hide(theirs, known)
    spoken = 1 - theirs.detach().softmax(-1)[..., blank]
    chosen = _most(spoken, teacher["frames"].unsqueeze(1), student["frames"].unsqueeze(1), size)
    beside = theirs.gather(1, chosen.unsqueeze(-1).expand(-1, -1, theirs.shape[-1]))
    return Moments(hide(ours, valid), hide(beside, valid), valid)


def _most(spoken: Tensor, theirs: Tensor, ours: Tensor, size: int) -> Tensor:
    """For each of ``size`` frames of ours the frame of theirs, in (N, T'), that is spoken most; int64 (N, size).

    Args:
        spoken: (N, T').
        theirs: int64 (N, 1), how many of T' count.
        ours: int64 (N, 1), how many of ``size`` count.
        size: how many frames of ours there are, padding included.
    """
    given = spoken.shape[1]
    place = torch.arange(given, device=spoken.device).expand_as(spoken)
    # of ours, the frame on which the middle of each of theirs falls; what lies behind the end has a column of its own
    on = torch.where(place < theirs, (2 * place + 1) * ours // (2 * theirs), size)
    most = spoken.new_full((len(spoken), size + 1), -1.0).scatter_reduce(1, on, spoken, "amax")
    candidates = torch.where(spoken == most.gather(1, on), place, given)
    first = torch.full_like(on[:, :1], given).expand(-1, size + 1).scatter_reduce(1, on, candidates, "amin")[:, :size]
    # where no middle of theirs falls on a frame of ours, they make fewer frames than we: the nearest is repeated
    nearest = (2 * torch.arange(size, device=spoken.device) + 1) * theirs // (2 * ours)
    return torch.where(first < given, first, nearest.clamp(max=given - 1))
