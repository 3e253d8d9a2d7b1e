"""What kdcore promises of every loss, checked on the distillers of recognisers."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from kdcore.losses.base import Loss
from kdcore.testing import check_loss, samples

from kdcore_speech.losses.bert_ctc import BertCTC
from kdcore_speech.losses.frame_kl import FrameKL
from kdcore_speech.losses.guided_ctc import GuidedCTC
from kdcore_speech.losses.slu import RehearsedFeatures, RehearsedPredictions
from recognised import BLANK, LABELS, clips, features, said, soft

EVEN = {"student": said(9, 1), "teacher": said(9, 2), "batch": clips()}
FASTER = {**EVEN, "teacher": said(20, 2)}
SLOWER = {**EVEN, "teacher": said(4, 2)}
LABELLED = {"empty": "labels, not the mask, say which positions count", "mask": "as `empty`"}
CERTAIN = {"minimal": "it asks for certainty, of which a student may have more than its teacher"}

REHEARSED = {**clips(), "rehearsed": torch.tensor([False, True, True]), "labels": torch.tensor([3, 0, 1])}
TOKENS = samples.tokens()
DECODER = {"vocabulary": LABELS, "blank": BLANK, "width": 8, "heads": 2, "dropout": 0.0}

CASES: dict[str, tuple[Callable[[], Loss], dict[str, Any]]] = {
    "frame_kl": (partial(FrameKL, blank=BLANK, temperature=2.0), EVEN),
    "frame_kl: labels": (partial(FrameKL, blank=BLANK, around=0), EVEN),
    "frame_kl: faster": (partial(FrameKL, blank=BLANK, around=1), FASTER),
    "frame_kl: slower": (partial(FrameKL, blank=BLANK), SLOWER),
    "guided_ctc": (partial(GuidedCTC, blank=BLANK), {**EVEN, "skip": CERTAIN}),
    "guided_ctc: faster": (partial(GuidedCTC, blank=BLANK), FASTER),
    "bert_ctc": (partial(BertCTC, **DECODER), {"student": {"feature": features(9, 6, 1)}, "batch": soft(clips())}),
    "slu_features": (
        RehearsedFeatures,
        {"student": {"feature": features(9, 6, 1)}, "teacher": {"feature": features(9, 6, 2)}, "batch": REHEARSED},
    ),
    "slu_predictions": (
        partial(RehearsedPredictions, known=[0, 1, 4]),
        {**samples.vectors(3), "batch": REHEARSED},
    ),
    "slu_predictions: tokens": (
        partial(RehearsedPredictions, temperature=2.0),
        {
            **TOKENS,
            "batch": {**TOKENS["batch"], "rehearsed": torch.tensor([True, True, False, True])},
            "skip": LABELLED,
        },
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_it_keeps_what_a_loss_promises(name: str) -> None:
    make, given = CASES[name]
    check_loss(make, **{**given, "skip": {**given.get("skip", {}), "compile": "takes long, and is tested below"}})


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_it_compiles(name: str) -> None:
    make, given = CASES[name]
    check_loss(make, **{**given, "skip": None}, only=["compile"])
