"""What kdcore promises of every loss, checked on each that this plugin registers."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from made import llama
from torch import Tensor

from drafts import VOCABULARY, WIDTH, batch, draft, signals
from kdcore.losses.base import Loss
from kdcore.testing import check_loss, registered, samples
from kdcore_specdec.losses.adaspec import AdaSPEC
from kdcore_specdec.losses.cross_entropy import CrossEntropy
from kdcore_specdec.losses.divergence import Divergence
from kdcore_specdec.losses.eagle import Eagle3
from kdcore_specdec.losses.falcon import Falcon
from kdcore_specdec.losses.fspad import FSPAD
from kdcore_specdec.losses.medusa import Medusa
from kdcore_specdec.models import eagle, falcon, fspad, medusa
from kdcore_specdec.models.feature import FeatureDraft

TARGET = llama(layers=3, vocabulary=VOCABULARY, width=WIDTH)
NARROW = "logits are the product of hidden states and head in the precision of these, as the nets themselves make them"
SKIP = {
    "precision": NARROW,
    "autocast": NARROW,
    "compile": "on a CPU the labelled tokens are picked out, as many as there are",
}


def head(seed: int, width: int) -> Tensor:
    """Of nine tokens."""
    return torch.randn(9, width, generator=torch.Generator().manual_seed(seed))


def tokens(*widths: int) -> dict[str, Any]:
    """Hidden states and heads of a student, of a teacher and, with a third width, of a reference."""
    made: dict[str, Any] = {**samples.tokens(signal="hidden", channels=(widths[0], widths[1]))}
    made["student"] = {**made["student"], "head": head(3, widths[0])}
    made["teacher"] = {**made["teacher"], "head": head(4, widths[1])}
    if len(widths) == 3:
        other = samples.tokens(signal="hidden", channels=(widths[2], widths[2]))["teacher"]["hidden"]
        made["roles"] = {"reference": {"hidden": other, "head": head(5, widths[2])}}
    return made


def drafted(kind: type[FeatureDraft], *, packed: bool = True) -> dict[str, Any]:
    """What a draft says of five rows, beside what its target says of them."""
    made, net = batch(n=5, packed=packed), draft(kind).eval()
    given = signals(TARGET, made)
    made["mask"] = torch.rand(made["labels"].shape, generator=torch.Generator().manual_seed(0)) > 0.2
    made["mask"][-1] = False
    with torch.no_grad():
        said = net(made, given)
    return {"student": said, "teacher": given, "batch": made, "models": {"student": net}}


CASES: dict[str, tuple[Callable[[], Loss], dict[str, Any]]] = {
    "cross_entropy": (CrossEntropy, tokens(4, 6)),
    "divergence": (partial(Divergence, temperature=2.0), tokens(4, 6)),
    **{f"divergence: {kind}": (partial(Divergence, kind=kind), tokens(6, 6)) for kind in ("reverse_kl", "jsd", "tvd")},
    "adaspec": (AdaSPEC, tokens(4, 6, 3)),
    "eagle3": (Eagle3, drafted(eagle.Eagle3)),
    "fspad": (FSPAD, drafted(fspad.FSPAD)),
    "medusa": (Medusa, drafted(medusa.Medusa, packed=False)),
    "falcon": (
        Falcon,
        {
            **drafted(falcon.Falcon, packed=False),
            "skip": {
                "mask": "what the target says at a masked position is what the draft reads at the next",
                "padding": "which blocks are shown is drawn, one number for each position",
            },
        },
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_it_keeps_what_a_loss_promises(name: str) -> None:
    make, given = CASES[name]
    check_loss(make, **{**given, "skip": {**SKIP, **given.get("skip", {})}})


def test_no_loss_is_forgotten() -> None:
    assert {name.partition(":")[0]: type(make()) for name, (make, _) in CASES.items()} == registered("specdec", "loss")
