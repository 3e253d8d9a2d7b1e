"""What kdcore promises of every loss, checked on those that compare representations."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from kdcore.losses.base import Loss
from kdcore.testing import check_loss, samples
from torch import Tensor, nn

from embedded import coded, embedded, normal
from kdcore_speech.adapters import adapters
from kdcore_speech.losses.audiocap import EncoderContrast
from kdcore_speech.losses.ced import CED
from kdcore_speech.losses.distilhubert import DistilHuBERT
from kdcore_speech.losses.dm_codec import DMCodec
from kdcore_speech.losses.mvq import MVQ
from kdcore_speech.losses.os_kdft import OSKDFT


class Student(nn.Module):
    """A frame for every two samples."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.layer = nn.Linear(2, 6), nn.Linear(6, 6)

    def forward(self, audio: Tensor, audio_lengths: Tensor) -> Tensor:
        return self.layer(self.stem(audio.unflatten(1, (-1, 2)))).sum(1)  # type: ignore[no-any-return]


def beside_a_net() -> dict[str, Any]:
    given = embedded((6, 6), rates=False)
    batch = {**given["batch"], "audio": normal(5, 4, 18), "audio_lengths": 2 * given["student"]["frames"]}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        student = adapters(Student(), layers="layer", width=2)
    return {**given, "batch": batch, "models": {"student": student}}


CASES: dict[str, tuple[Callable[[], Loss], dict[str, Any], dict[str, str]]] = {
    "distilhubert": (DistilHuBERT, embedded(), {}),
    "distilhubert: no head": (partial(DistilHuBERT, head=False, cosine=0.5), embedded((5, 5), rates=False), {}),
    "dm_codec": (DMCodec, embedded((5, 5)), {}),
    "mvq": (partial(MVQ, codebooks=3), coded(), {}),
    "ced": (CED, samples.vectors(), {}),
    "ced: softmax": (
        partial(CED, scores="softmax"),
        samples.vectors(),
        {"minimal": "the student's scores are sigmoids, and differ from shares where logits are equal"},
    ),
    "audiocap": (partial(EncoderContrast, width=3), samples.vectors(signal="embedding", channels=(5, 7)), {}),
    "os_kdft": (
        partial(OSKDFT, layer="layer"),
        beside_a_net(),
        {"precision": "it runs the student", "minimal": "it runs the student"},
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_it_keeps_what_a_loss_promises(name: str):
    make, given, skip = CASES[name]
    check_loss(make, **given, skip={**skip, "compile": "takes long, and is tested below"})


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in CASES if name != "os_kdft"])  # which runs a net that has hooks
def test_it_compiles(name: str):
    make, given, _ = CASES[name]
    check_loss(make, **given, only=["compile"])
