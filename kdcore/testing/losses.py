"""``check_loss``: everything that the core, and other losses beside it, expect of a loss."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from torch import nn

from kdcore.losses.base import Loss
from kdcore.signals import Batch, Signals
from kdcore.testing.case import Case
from kdcore.testing.checks import run_checks
from kdcore.testing.loss_batches import BATCHES
from kdcore.testing.loss_reads import READS
from kdcore.testing.loss_source import SOURCE
from kdcore.testing.loss_totals import COMPILED, TOTALS
from kdcore.testing.loss_values import VALUES, Reference, reference_check

Role: TypeAlias = "Signals | tuple[Signals, ...]"
"""The signals of a role, by the names that the loss reads; several of them where the recipe gives a list."""

CHECKS = (*SOURCE, *READS, *TOTALS, *VALUES, *BATCHES)
"""In this order; then comes the reference, where there is one, and compiling, which takes longest."""


def check_loss(
    make: Callable[[], Loss],
    *,
    student: Role,
    teacher: Role | None = None,
    batch: Batch | None = None,
    roles: Mapping[str, Role] | None = None,
    models: Mapping[str, nn.Module] | None = None,
    facts: Mapping[str, Any] | None = None,
    class_axis: int = -1,
    reference: Reference | None = None,
    skip: Mapping[str, str] | None = None,
    only: Sequence[str] = (),
) -> None:
    """Check what a loss promises, one promise after another.

    The loss gets what the core would give it: the signals that it ``needs``, those of other roles without a graph, a
    fresh instance each time, set up and in train mode, with the same random numbers.

    A tensor as long as the student's signal has one row a sample; what has not (a head, a codebook) is of another
    length. Samples of different lengths are packed, with their ``<name>.lengths`` beside them.

    Args:
        make: gives a fresh loss: the class, or ``lambda: KL(temperature=4.0)``.
        student: its signals, at least two samples.
        teacher: those of the teacher, for a loss that reads one.
        batch: what else it reads: ``labels``, ``mask``, ``weight``, ``id``, ... With a ``mask`` that leaves out some
            positions, more is checked.
        roles: signals of further roles.
        models: modules behind the roles, for a loss that asks ``setup`` for one; ``student`` learns, others are frozen.
        facts: of the task, for ``setup``.
        class_axis: of the task: 1 for maps (N, C, H, W).
        reference: the mean that is expected (by name where there are several totals), or a function of student,
            teacher, batch and further roles that returns it; a tensor with a graph has its gradients compared too.
        skip: checks that do not apply, each with the reason: ``{"order": "edges name rows by their number"}``.
        only: the checks to run, where the others have a test of their own: ``["compile"]``.

    Raises:
        AssertionError: a promise is broken; the message says which one, and what to write instead.
        ValueError: fewer than two samples, an unknown name in ``skip`` or ``only``, or one without a reason.
    """
    given: dict[str, Any] = {"student": student, **({} if teacher is None else {"teacher": teacher}), **(roles or {})}
    case = Case(make, given, batch or {}, models or {}, facts or {}, class_axis)
    if case.samples < 2:
        raise ValueError(f"the student has {case.samples} sample: give two at least, of which a batch can be split")
    compared = () if reference is None else (reference_check(reference),)
    checks = (*CHECKS, *compared, *COMPILED)
    run_checks(checks, case, title=type(make()).__name__, caller="check_loss", skip=skip, only=only)
