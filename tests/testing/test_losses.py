"""``check_loss`` on all the core's losses, and how it takes what it is given."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from kdcore.losses.base import Loss, Total, total_of
from kdcore.losses.cosine import Cosine
from kdcore.losses.cross_entropy import CrossEntropy
from kdcore.losses.divergence import Divergence
from kdcore.losses.kl import KL
from kdcore.losses.mgd import MaskedGenerative
from kdcore.losses.pkd import Pearson
from kdcore.losses.regression import MSE, SmoothL1
from kdcore.plugins import Plugins
from kdcore.signals import Batch, Signals
from kdcore.testing import check_loss, samples
from kdcore.testing.losses import CHECKS

from . import refusal as r
from .sound import Relational, Sound

MADE: dict[str, Callable[[], Loss]] = {
    "cross_entropy": lambda: CrossEntropy(label_smoothing=0.1),
    "kl": lambda: KL(temperature=4.0),
    "forward_kl": lambda: Divergence(kind="forward_kl"),
    "reverse_kl": lambda: Divergence(kind="reverse_kl", temperature=2.0),
    "jsd": lambda: Divergence(beta=0.9),
    "tvd": lambda: Divergence(kind="tvd"),
    "mse": MSE,
    "smooth_l1": SmoothL1,
    "l1": lambda: SmoothL1(beta=0.0),
    "cosine": Cosine,
}
DOMAINS = {"maps": samples.maps, "tokens": samples.tokens}
WHOLE = dict.fromkeys(("mask", "padding"), "the whole map is compared: its docstring says that the mask is not read")
DRAWN = dict.fromkeys(("order", "additive"), "what is hidden is drawn for each place in the batch")
FEATURES: dict[str, tuple[Callable[[], Loss], dict[str, str], tuple[int, int]]] = {
    "pkd": (Pearson, WHOLE, (4, 4)),
    "mgd": (MaskedGenerative, {**WHOLE, **DRAWN}, (3, 7)),
    "mgd: nothing is hidden": (lambda: MaskedGenerative(ratio=0.0), WHOLE, (3, 7)),
}
"""Those that take maps of features: what does not apply to them, and the channels of student and teacher."""


def skipped(name: str) -> dict[str, str]:
    old = {"paper": "the cosine is older than all papers"} if name == "cosine" else {}
    return {"compile": "takes long, and is tested below", **old}


@pytest.mark.parametrize("domain", DOMAINS)
@pytest.mark.parametrize("name", MADE)
def test_every_loss_of_the_core_keeps_its_promises(name: str, domain: str):
    check_loss(MADE[name], **DOMAINS[domain](), skip=skipped(name))


@pytest.mark.parametrize("name", FEATURES)
def test_every_loss_over_features_keeps_its_promises(name: str):
    make, skip, channels = FEATURES[name]
    given = samples.maps(signal="feature", channels=channels)
    check_loss(make, **given, skip={**skip, "compile": "takes long, and is tested below"})


@pytest.mark.slow
@pytest.mark.parametrize("name", MADE)
def test_every_loss_of_the_core_compiles(name: str):
    check_loss(MADE[name], **samples.tokens(), only=["compile"])


@pytest.mark.slow
@pytest.mark.parametrize("name", FEATURES)
def test_every_loss_over_features_compiles(name: str):
    make, _, channels = FEATURES[name]
    check_loss(make, **samples.maps(signal="feature", channels=channels), only=["compile"])


def test_none_of_the_core_s_losses_is_forgotten():
    known = {type(make()) for make in (*MADE.values(), *(make for make, *_ in FEATURES.values()))}
    registered = {c.load() for c in Plugins().registry if c.kind == "loss"}
    assert known == registered


def test_the_checks_have_these_names():
    assert [check.name for check in CHECKS] == [
        *("parameters", "literal", "docstring", "paper"),
        *("runs", "needs", "inputs", "teacher"),
        *("total", "gradient", "count", "empty", "device"),
        *("precision", "autocast", "minimal"),
        *("order", "additive", "mask", "padding"),
    ]


def test_one_sample_cannot_be_split():
    with pytest.raises(
        ValueError, match=r"^the student has 1 sample: give two at least, of which a batch can be split$"
    ):
        check_loss(KL, **samples.vectors(1))


def test_a_loss_without_a_teacher():
    given = {key: value for key, value in samples.tokens().items() if key != "teacher"}
    check_loss(CrossEntropy, **given, skip=skipped(""))


def test_the_class_axis_is_that_of_the_task():
    maps = samples.maps()
    check_loss(KL, **maps, skip=skipped(""))
    given = {**maps, "class_axis": -1}
    assert r.refusal(KL, "runs", exactly=False, **given).startswith(
        "it raises ValueError: the batch's `mask` has shape"
    )


class Pyramid(Sound):
    """Reads all activations of a tap, which may be of different sizes."""

    needs: ClassVar[frozenset[str]] = frozenset({"student.feature", "teacher.feature"})
    signal: ClassVar[str] = "feature"
    joint: ClassVar[bool] = True

    def count(self, batch: Any) -> Tensor | None:
        return None

    def forward(self, student: Any, teacher: Any, batch: Any, **roles: Any) -> Total:
        terms = sum((student[name].float() - teacher[name].float()).square().flatten(1).mean(1) for name in student)
        assert isinstance(terms, Tensor)
        return Total(terms.sum(), torch.full((), len(terms), dtype=torch.int64, device=terms.device))


def test_a_loss_of_several_activations():
    def pyramid(seed: int) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(seed)
        return {f"feature@{i}": torch.randn(4, 3, size, size, generator=generator) for i, size in enumerate((8, 4))}

    check_loss(Pyramid, student=pyramid(0), teacher=pyramid(1), skip=r.PLAIN)


def test_a_head_is_no_sample():
    class Heads(Sound):
        needs: ClassVar[frozenset[str]] = frozenset({"student.logits", "teacher.logits", "student.head"})

        def forward(self, student: Any, teacher: Any, batch: Any, **roles: Any) -> Any:
            ours = student["logits"].float() @ student["head"].float()
            return self.total(self.terms(ours, teacher["logits"].float()), batch)

    given = {**samples.vectors(), "student": {**samples.vectors()["student"], "head": torch.eye(5)}}
    check_loss(Heads, **given, skip={**r.PLAIN, "literal": "it is in a function"})


def test_packed_samples_are_split_by_their_lengths():
    class Packed(Sound):
        """One term for each box; samples have different numbers of them."""

        needs: ClassVar[frozenset[str]] = frozenset({"student.boxes", "teacher.boxes"})
        signal: ClassVar[str] = "boxes"

        def count(self, batch: Any) -> Tensor | None:
            return None

        def forward(self, student: Any, teacher: Any, batch: Any, **roles: Any) -> Total:
            terms = (student["boxes"].float() - teacher["boxes"].float()).square().mean(1)
            return Total(terms.sum(), student["boxes.lengths"].sum())

    lengths = torch.tensor([2, 0, 3])
    student, teacher = (
        {"boxes": torch.randn(5, 4, generator=torch.Generator().manual_seed(seed)), "boxes.lengths": lengths}
        for seed in (0, 1)
    )
    order = {"order": "gradients are as long as the boxes, not as the samples"}
    check_loss(Packed, student=student, teacher=teacher, skip={**r.PLAIN, **order})


def test_a_loss_that_says_it_is_relational_is_not_split():
    check_loss(Relational, **samples.tokens(), skip=r.PLAIN)


def test_a_live_loss_may_reach_the_student_through_the_teacher():
    class Live(Relational):
        live: ClassVar[bool] = True

        def seen(self, student: Any, teacher: Any, batch: Any) -> Any:
            ours, theirs = super().seen(student, teacher, batch)
            return ours.detach(), theirs

    check_loss(Live, **samples.vectors(), skip=r.PLAIN)


def test_a_random_loss_draws_the_same_each_time():
    class Drops(Sound):
        def terms(self, ours: Tensor, theirs: Tensor) -> Tensor:
            return super().terms(ours, theirs) * (torch.rand(ours.shape[:-1], device=ours.device) < 0.5)

    before = torch.get_rng_state()
    given = samples.vectors()
    assert r.refusal(Drops, "order", exactly=False, **given).startswith("with the samples in another order its sum is ")
    random = "the terms are drawn at random"
    check_loss(Drops, **given, skip={**r.PLAIN, "order": random, "additive": random})
    assert torch.equal(torch.get_rng_state(), before)


class Slim(Loss):
    """``sum |w|`` of the student's weights, a term for each sample; reads no signal.

    **Paper**: none.
    """

    needs: ClassVar[frozenset[str]] = frozenset()

    def setup(self, example: Any, facts: Any, models: Callable[[str], nn.Module]) -> None:
        self._net = (models("student"),)

    def forward(self, student: Signals, teacher: Signals, batch: Batch, **roles: Any) -> Total:
        n = len(batch["labels"])
        return total_of(torch.stack([one.abs().sum() for one in self._net[0].parameters()]).sum() * n, n)


def test_a_loss_that_reads_weights_alone_compiles_too():
    check_loss(Slim, **samples.tokens(), models={"student": nn.Linear(3, 2)}, only=["compile"])
