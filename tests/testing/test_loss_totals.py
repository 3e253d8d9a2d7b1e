"""Losses that return something else than a sum with a graph and a count."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from kdcore.losses.base import Loss, Total, masked_total
from kdcore.testing import check_loss, samples

from . import refusal as r
from .sound import Named, Sound, Uncounted

VECTORS = samples.vectors()
COUNT = "`total_of(terms.sum(), n)`"


def returning(what: Any, base: type[Sound] = Uncounted) -> type[Loss]:
    """A loss whose total is made by a function of its terms."""

    class Returning(base):  # type: ignore[misc, valid-type]
        def total(self, terms: Tensor, batch: Any) -> Any:
            return what(terms)

    return Returning


def n(terms: Tensor) -> Tensor:
    return torch.full((), terms.numel(), dtype=torch.int64, device=terms.device)


@pytest.mark.parametrize(
    ("what", "said"),
    [
        (
            lambda terms: terms.mean(),
            "it returned a Tensor: return Total(terms.sum(), how many), from `kdcore import Total`, or several of them "
            "by name",
        ),
        (
            lambda terms: {"far": (terms.sum(), n(terms))},
            "it returned a tuple as `far`: return Total(terms.sum(), how many), from `kdcore import Total`, or several "
            "of them by name",
        ),
        (lambda terms: {}, "it returned no total at all: return the same ones for every batch, with a count of 0"),
        (
            lambda terms: Total(terms, n(terms)),
            "the sum is float32 of shape (4,), not a float32 scalar: add up all terms, `terms.float().sum()`",
        ),
        (
            lambda terms: Total(terms.double().sum(), n(terms)),
            "the sum is float64 of shape (), not a float32 scalar: add up all terms, `terms.float().sum()`",
        ),
        (
            lambda terms: Total(terms.sum().detach(), n(terms)),
            "the sum carries no graph to the student: compute it from the student's signals, outside of no_grad, and "
            "select by a mask, not by returning a new zero",
        ),
        (
            lambda terms: Total((terms.sum() - terms.sum()).log(), n(terms)),
            "the sum is -inf on finite signals: look for a log, a root or a division at 0",
        ),
        (
            lambda terms: Total(terms.sum(), terms.numel()),  # type: ignore[arg-type]
            f"the count is a int, not an int64 scalar: write `mask.sum()`, or {COUNT}",
        ),
        (
            lambda terms: Total(terms.sum(), n(terms).float()),
            f"the count is float32 of shape (), not an int64 scalar: write `mask.sum()`, or {COUNT}",
        ),
        (
            lambda terms: {"far": Total(terms.sum(), 0 * n(terms))},
            "the count of `far` is 0: give the check a batch in which something counts",
        ),
    ],
)
def test_what_is_no_total(what: Any, said: str):
    assert r.refusal(returning(what), "total", exactly=False, **VECTORS) == said


def test_several_totals_by_name_are_fine():
    check_loss(Named, **samples.tokens(), skip=r.PLAIN)


def test_no_gradient_at_the_student():
    class Rounds(Sound):
        def terms(self, ours: Tensor, theirs: Tensor) -> Tensor:
            return super().terms(ours.round(), theirs)

    assert r.refusal(Rounds, "gradient", **VECTORS) == (
        "it has no gradient at the student, and would train nothing: is the student's signal used through argmax, "
        "round or a comparison only?"
    )


def test_a_gradient_that_is_not_finite():
    class Roots(Sound):
        def terms(self, ours: Tensor, theirs: Tensor) -> Tensor:
            return super().terms(ours, theirs) + (ours - ours).square().sum(-1).sqrt()

    assert r.refusal(Roots, "gradient", exactly=False, **VECTORS) == (
        "the gradient at `student.logits` is not finite: look for a root or a norm at 0, the log of 0, and torch.where "
        "around something that is infinite"
    )


class Again(Uncounted):
    """Runs the student itself: its signals are not what it learns by."""

    def setup(self, example: Any, facts: Any, models: Any) -> None:
        self.student = (models("student"),)

    def seen(self, student: Any, teacher: Any, batch: Any) -> Any:
        return super().seen({"logits": self.student[0](student["logits"].detach().float())}, teacher, batch)


def test_a_loss_may_run_the_student_itself():
    net = torch.nn.Linear(samples.CLASSES, samples.CLASSES)
    check_loss(Again, **VECTORS, models={"student": net}, skip=r.PLAIN)
    assert net.weight.grad is None


def test_one_that_runs_the_student_itself_for_nothing():
    class Forgets(Again):
        def terms(self, ours: Any, theirs: Any) -> Any:
            return super().terms(ours.detach(), theirs) + 0.0 * ours.sum()

    net = torch.nn.Linear(samples.CLASSES, samples.CLASSES)
    said = r.refusal(Forgets, "gradient", **VECTORS, models={"student": net})
    assert said.startswith("it has no gradient at the student, and would train nothing")


class Foretells(Sound):
    def count(self, batch: Any) -> Tensor | None:
        return torch.tensor(batch["labels"].numel())


def test_a_count_that_is_not_what_was_foretold():
    assert r.refusal(Foretells, "count", **samples.tokens()) == (
        "`count(batch)` foretells 28 terms, and `forward` counts 14: make them equal, or return None where the batch "
        "alone does not tell"
    )


def test_a_count_that_is_wrong_without_a_mask():
    class Half(Sound):
        def count(self, batch: Any) -> Tensor | None:
            return batch["mask"].sum() if "mask" in batch else torch.tensor(3)

    assert r.refusal(Half, "count", **samples.tokens()) == (
        "`count(batch)` foretells 3 terms without a mask, and `forward` counts 28: make them equal, or return None "
        "where the batch alone does not tell"
    )


def test_a_count_that_one_of_several_totals_does_not_keep():
    class Named2(Named):
        def count(self, batch: Any) -> Tensor | None:
            return torch.tensor(4)

        def total(self, terms: Tensor, batch: Any) -> Any:
            return {"one": masked_total(terms, batch), "two": Total(terms.sum(), 2 * n(terms))}

    assert r.refusal(Named2, "count", **VECTORS) == (
        "`count(batch)` foretells 4 terms, and `forward` counts 8 of `two`: make them equal, or return None where the "
        "batch alone does not tell"
    )


@pytest.mark.parametrize(
    ("value", "kind"),
    [(4, "a int"), (torch.tensor(4.0), "float32 of shape ()"), (torch.ones(2), "float32 of shape (2,)")],
)
def test_a_count_of_another_type(value: Any, kind: str):
    class Counts(Sound):
        def count(self, batch: Any) -> Any:
            return value

    said = f"`count(batch)` gives {kind}: give an int64 scalar tensor, or None"
    assert r.refusal(Counts, "count", **VECTORS) == said


def test_a_count_that_is_never_0():
    class Clamps(Uncounted):
        def total(self, terms: Tensor, batch: Any) -> Any:
            total = masked_total(terms, batch)
            return Total(total.sum, total.count.clamp(min=1))

    # the last sample has no position at all, but with other samples it is not alone
    assert r.refusal(Clamps, "empty", **samples.tokens()) == (
        "where the mask keeps nothing the count is 1, not 0: count what is selected, without a clamp; the core "
        "divides, and takes care of 0"
    )


def test_a_sum_of_what_is_not_selected():
    class Forgets(Uncounted):
        def total(self, terms: Tensor, batch: Any) -> Any:
            return Total(terms.sum(), (batch["labels"] >= 0).sum())

    assert r.refusal(Forgets, "empty", **VECTORS) == (
        "where nothing has a label the sum is 23.3403, not 0: leave out the terms that are not selected, "
        "`torch.where(mask, terms, 0.0).sum()`"
    )


def test_a_gradient_of_nothing_that_is_not_finite():
    class Divides(Uncounted):
        def total(self, terms: Tensor, batch: Any) -> Any:
            labelled = batch["labels"] >= 0
            count = labelled.sum()
            mean = torch.where(count > 0, (terms * labelled).sum() / count, 0.0)
            return Total(mean * count, count)

    assert r.refusal(Divides, "empty", **VECTORS) == (
        "where nothing has a label the gradient is not finite: do not divide by how many are selected"
    )


def test_a_loss_that_looks_at_neither_mask_nor_labels_is_not_asked():
    class Blind(Uncounted):
        def forward(self, student: Any, teacher: Any, batch: Any, **roles: Any) -> Any:
            terms = self.terms(student["logits"].float(), teacher["logits"].float())
            return Total(terms.sum(), n(terms))

    check_loss(Blind, **samples.tokens(), skip={**r.PLAIN, "mask": "it does not read it", "padding": "nor this"})


def test_a_value_that_is_read():
    class Reads(Sound):
        def terms(self, ours: Tensor, theirs: Tensor) -> Tensor:
            return super().terms(ours, theirs) * (1.0 + 0.0 * ours.max().item())

    said = r.refusal(Reads, "device", **VECTORS)
    assert said.startswith("it raises RuntimeError: ")
    assert said.endswith(
        "promised is that nothing in it waits for the device: no `.item()`, no `if` on a tensor, no `x[mask]`; "
        "multiply by the mask"
    )


def test_a_selection_by_a_mask():
    class Selects(Uncounted):
        def total(self, terms: Tensor, batch: Any) -> Any:
            chosen = terms[batch["mask"]]
            return Total(chosen.sum(), batch["mask"].sum())

    assert r.refusal(Selects, "device", **samples.tokens()).startswith("it raises NotImplementedError: ")


@pytest.mark.parametrize(
    ("what", "field"),
    [
        (lambda terms: Total(terms.sum(), torch.tensor(terms.numel())), "count"),
        (lambda terms: {"a": Total(terms.sum(), torch.tensor(terms.numel()))}, "count of `a`"),
    ],
)
def test_a_tensor_that_is_made_on_the_cpu(what: Any, field: str):
    assert r.refusal(returning(what), "device", **VECTORS) == (
        f"the {field} is made on the cpu, wherever the signals are: make tensors on their device, {COUNT}"
    )


def test_what_setup_makes_moves_to_the_device_too():
    class Trains(Uncounted):
        def setup(self, example: Any, facts: Any, models: Any) -> None:
            self.map = torch.nn.Linear(example["student"]["logits"].shape[1], facts["width"])

        def seen(self, student: Any, teacher: Any, batch: Any) -> Any:
            ours, theirs = super().seen(student, teacher, batch)
            return self.map(ours), theirs

    check_loss(Trains, **samples.vectors(channels=(5, 3)), facts={"width": 3}, skip=r.PLAIN)


def compile_refusal(make: type[Loss]) -> str:
    with pytest.raises(AssertionError) as caught:
        check_loss(make, **VECTORS, skip=r.without("compile"))
    return r.inside(str(caught.value), f"{make.__name__} [compile]: ", "check_loss", "compile")


def test_what_cannot_be_compiled():
    class Breaks(Sound):
        def terms(self, ours: Tensor, theirs: Tensor) -> Tensor:
            torch._dynamo.graph_break()
            return super().terms(ours, theirs)

    said = compile_refusal(Breaks)
    assert said.startswith("it raises Unsupported: ")
    assert said.endswith(
        "promised is that it compiles as a whole (`fullgraph`) and gives the same: no `if` on a tensor, no printing, "
        "no call into libraries that cannot be traced"
    )


def test_what_compiled_is_something_else():
    class Differs(Sound):
        def terms(self, ours: Tensor, theirs: Tensor) -> Tensor:
            return super().terms(ours, theirs) * (2.0 if torch.compiler.is_compiling() else 1.0)

    assert compile_refusal(Differs) == (
        "compiled its sum is 46.6806 instead of 23.3403: keep what Python counts or remembers out of `forward`"
    )
