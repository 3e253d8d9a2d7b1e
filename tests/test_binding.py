"""A loss in its slot: what it reads of whom, what is detached, resized and projected."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn
from toy_stage import Squares, Vectors, batch_of, bind, net

from kdcore.binding import BoundLoss, Read, reads_of
from kdcore.cast import Cast
from kdcore.errors import RunError
from kdcore.losses.base import Loss, Total
from kdcore.losses.cross_entropy import CrossEntropy
from kdcore.losses.regression import MSE
from kdcore.projectors import conv1x1, linear
from kdcore.recipe.schema import Ref
from kdcore.signals import Batch, Signals

STUDENT, TEACHER = Ref("student"), Ref("teacher")
ROLES = {"student": STUDENT, "teacher": TEACHER}


class Spy(Loss):
    """Remembers what it is given; its value is the sum of all of it."""

    def __init__(self, needs: frozenset[str] | None = None, *, live: bool = False, class_axis: int = -1) -> None:
        super().__init__()
        self.needs = self.needs if needs is None else needs
        self.live = live
        self.class_axis = class_axis

    def setup(self, example: Any, facts: Any, models: Any) -> None:
        self.example, self.facts, self.models = example, facts, models

    def count(self, batch: Batch) -> Tensor | None:
        return torch.tensor(len(batch["id"]))

    def forward(self, student: Signals, teacher: Signals, batch: Batch, **roles: Any) -> Total:
        self.given = {"student": student, "teacher": teacher, **roles}
        total = sum(x.sum() for x in student.values()) if isinstance(student, dict) else torch.zeros(())
        return Total(torch.as_tensor(total), torch.tensor(1))


class Parts(Loss):
    """Several totals by name."""

    def forward(self, student: Signals, teacher: Signals, batch: Batch, **roles: Any) -> dict[str, Total]:
        one = torch.tensor(1)
        return {"a": Total(student["logits"].sum(), one), "b": Total(teacher["logits"].sum(), one)}


def signals(**given: Signals) -> dict[Ref, Signals]:
    return {Ref(name): of for name, of in given.items()}


def two(ours: Tensor, theirs: Tensor) -> dict[Ref, Signals]:
    return signals(student={"logits": ours}, teacher={"logits": theirs})


class Unwilling(Loss):
    def setup(self, example: Any, facts: Any, models: Any) -> None:
        raise ValueError("four stages, not three")


def test_what_a_loss_refuses_in_setup_is_said_with_its_name() -> None:
    bound = BoundLoss(
        "csf", Unwilling(), weight=1.0, roles={"student": Ref("student"), "teacher": Ref("teacher")},
        reads=reads_of(Unwilling(), {"student": Ref("student"), "teacher": Ref("teacher")}, signal=None, read={}),
    )  # fmt: skip
    with pytest.raises(RunError, match=r"^loss `csf`: four stages, not three$"):
        bound.setup(two(torch.zeros(2, 3), torch.zeros(2, 3)), {}, lambda name: nn.Identity())


# --- what a loss reads ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("needs", "signal", "read", "expected"),
    [
        (
            {"student.logits", "teacher.logits"},
            None,
            {},
            [Read("student", "logits", "student", "logits"), Read("teacher", "logits", "teacher", "logits")],
        ),
        (
            {"student.logits", "teacher.logits"},
            "tap.deep",
            {},
            [Read("student", "logits", "student", "tap.deep"), Read("teacher", "logits", "teacher", "tap.deep")],
        ),
        (  # what is not the loss's own signal stays
            {"student.logits", "student.mask"},
            "tap.deep",
            {},
            [Read("student", "logits", "student", "tap.deep"), Read("student", "mask", "student", "mask")],
        ),
        (  # self-distillation between exits
            {"student.logits", "teacher.logits"},
            None,
            {"student.logits": "student.exit1", "teacher.logits": "student.logits"},
            [Read("student", "logits", "student", "exit1"), Read("teacher", "logits", "student", "logits")],
        ),
        (  # `read` goes before `signal`
            {"student.logits", "teacher.logits"},
            "tap.deep",
            {"teacher.logits": "teacher.tap.other"},
            [Read("student", "logits", "student", "tap.deep"), Read("teacher", "logits", "teacher", "tap.other")],
        ),
        (set(), None, {}, []),
    ],
)
def test_reads(needs: set[str], signal: str | None, read: dict[str, str], expected: list[Read]) -> None:
    assert reads_of(Spy(frozenset(needs)), ROLES, signal=signal, read=read) == tuple(expected)


def test_a_further_role_is_read_where_it_is_bound() -> None:
    loss = Spy(frozenset({"student.logits", "reference.logits"}))
    roles = {**ROLES, "reference": Ref("old")}
    assert Read("reference", "logits", "reference", "logits") in reads_of(loss, roles, signal=None, read={})
    with pytest.raises(RunError, match=r"needs a `reference` and its slot binds none \(bound: student, teacher\)"):
        reads_of(loss, ROLES, signal=None, read={})


def test_read_of_something_that_the_loss_does_not_read() -> None:
    expected = r"`read: \{teacher.hidden: ...\}` binds nothing: this loss reads student.logits, teacher.logits"
    with pytest.raises(RunError, match=expected):
        reads_of(Spy(), ROLES, signal=None, read={"teacher.hidden": "teacher.logits"})


def test_read_from_a_role_without_a_model() -> None:
    with pytest.raises(RunError, match="needs a `peer` and its slot binds none"):
        reads_of(Spy(), ROLES, signal=None, read={"teacher.logits": "peer.logits"})


def test_a_signal_that_can_be_bound_to_nothing() -> None:
    expected = r"`tap.deep` cannot be bound: .* replace `logits`, and this loss reads student.boxes; .* `read:`"
    with pytest.raises(RunError, match=expected):
        reads_of(Spy(frozenset({"student.boxes"})), ROLES, signal="tap.deep", read={})


def test_refs_are_the_models_and_views_that_are_read() -> None:
    roles = {"student": STUDENT, "teacher": (TEACHER, Ref("old", "weak")), "reference": Ref("unread")}
    assert bind(Spy(), roles=roles).refs == {STUDENT, TEACHER, Ref("old", "weak")}
    assert bind(Spy(frozenset({"student.logits"})), roles=roles).refs == {STUDENT}


# --- forward ----------------------------------------------------------------------------------------------------------


def test_only_what_is_read_arrives() -> None:
    loss = Spy()
    given = signals(student={"logits": torch.ones(2), "x": torch.ones(1)}, teacher={"logits": torch.zeros(2)})
    totals = bind(loss)(given, {})
    assert loss.given["student"].keys() == loss.given["teacher"].keys() == {"logits"}
    assert totals.keys() == {"kd"}
    assert totals["kd"].sum == 2.0


def test_several_totals_are_named_after_the_slot() -> None:
    totals = bind(Parts(), name="feat")(two(torch.ones(2), torch.full((2,), 3.0)), {})
    assert {name: float(total.sum) for name, total in totals.items()} == {"feat.a": 2.0, "feat.b": 6.0}


def test_a_loss_that_needs_no_teacher_gets_an_empty_one() -> None:
    loss = Spy(frozenset({"student.logits"}))
    bind(loss, roles={"student": STUDENT})(signals(student={"logits": torch.ones(2)}), {})
    assert loss.given["teacher"] == {}


def test_a_loss_that_reads_nothing_gets_two_empty_ones() -> None:
    loss = Spy(frozenset())
    bind(loss)({}, {})
    assert loss.given == {"student": {}, "teacher": {}}


def test_a_further_role_arrives_by_its_name() -> None:
    loss = Spy(frozenset({"student.logits", "reference.logits"}))
    bind(loss, roles={**ROLES, "reference": Ref("old")})(
        signals(student={"logits": torch.ones(1)}, old={"logits": torch.full((1,), 5.0)}), {}
    )
    assert loss.given["reference"]["logits"] == 5.0


def test_a_role_bound_to_a_list_arrives_as_a_tuple_in_its_order() -> None:
    loss = Spy(frozenset({"student.logits", "teacher.logits", "teacher.tap.deep"}))
    one, other = (
        {"logits": torch.full((1,), value, requires_grad=True), "tap.deep": torch.zeros(1)} for value in (1.0, 2.0)
    )
    bind(loss, roles={"student": STUDENT, "teacher": (Ref("b"), Ref("a"))})(
        signals(student={"logits": torch.ones(1)}, a=one, b=other), {}
    )
    assert isinstance(loss.given["teacher"], tuple)
    assert [given["logits"].item() for given in loss.given["teacher"]] == [2.0, 1.0]
    assert all(given.keys() == {"logits", "tap.deep"} for given in loss.given["teacher"])
    assert not any(given["logits"].requires_grad for given in loss.given["teacher"])


@pytest.mark.parametrize("live", [False, True])
def test_all_but_the_student_is_detached_unless_the_loss_is_live(live: bool) -> None:
    loss = Spy(frozenset({"student.logits", "teacher.logits", "reference.logits"}), live=live)
    given = signals(**{n: {"logits": torch.ones(2, requires_grad=True) * 2} for n in ("student", "teacher", "old")})
    bind(loss, roles={**ROLES, "reference": Ref("old")})(given, {})
    assert loss.given["student"]["logits"].requires_grad
    assert loss.given["teacher"]["logits"].requires_grad is live
    assert loss.given["reference"]["logits"].requires_grad is live


def test_self_distillation_between_exits_trains_the_exit_only() -> None:
    exit1, logits = (torch.randn(4, 3, requires_grad=True) for _ in range(2))
    bound = bind(
        Squares(),
        roles={"student": STUDENT},
        read={"student.logits": "student.exit1", "teacher.logits": "student.logits"},
    )
    assert bound.refs == {STUDENT}
    bound(signals(student={"exit1": exit1, "logits": logits}), {})["kd"].sum.backward()
    torch.testing.assert_close(exit1.grad, 2 * (exit1 - logits).detach())
    assert logits.grad is None


def test_what_a_model_gives_is_not_changed() -> None:
    """Several losses share it."""
    given = two(torch.ones(1, 2, 4, 4), torch.ones(1, 2, 2, 2))
    bind(Spy(), resize="student")(given, {})
    assert given[STUDENT]["logits"].shape == (1, 2, 4, 4)


def test_a_signal_that_the_model_does_not_give() -> None:
    bound = bind(Spy(), signal="tap.deep")
    given = signals(student={"logits": torch.ones(1), "boxes": torch.ones(1)}, teacher={"tap.deep": torch.ones(1)})
    with pytest.raises(RunError, match=r"loss `kd` reads `tap\.deep` of model `student`, which gives boxes, logits"):
        bound(given, {})


def test_a_loss_that_returns_a_bare_tensor() -> None:
    class Bare(Spy):
        def forward(self, student: Signals, teacher: Signals, batch: Batch, **roles: Any) -> Any:
            return student["logits"].mean()

    with pytest.raises(RunError, match=r"loss `kd` returned a Tensor: a loss returns Total\(sum, count\), or several"):
        bind(Bare())(two(torch.ones(1), torch.ones(1)), {})


def test_count_is_the_losses_own_unless_something_is_rebound() -> None:
    batch = batch_of(5)
    assert bind(Spy()).count(batch) == 5
    assert bind(Spy(), signal="tap.deep").count(batch) is None


# --- what the batch is ------------------------------------------------------------------------------------------------


def flipped() -> Batch:
    """Three samples and a view of them that has labels and a mask of its own."""
    labels, mask = torch.tensor([0, 1, 2]), torch.tensor([True, True, True])
    return {"id": torch.arange(3), "labels": labels, "mask": mask, "views": {
        "strong": {"labels": labels.flip(0), "mask": torch.tensor([True, False, False])},
        "plain": {"x": torch.zeros(3)},
    }}  # fmt: skip


@pytest.mark.parametrize(
    ("view", "target", "count"), [(None, [0, 1, 2], 3), ("strong", [2], 1), ("plain", [0, 1, 2], 3)]
)
def test_labels_and_mask_are_those_of_the_students_view(view: str | None, target: list[int], count: int) -> None:
    logits = torch.randn(3, 3, generator=torch.Generator().manual_seed(0))
    student = Ref("student", view)
    for loss in (CrossEntropy(), MSE()):
        bound = bind(loss, roles={"student": student, "teacher": Ref("teacher", "weak")})
        given = {student: {"logits": logits}, Ref("teacher", "weak"): {"logits": torch.zeros(3, 3)}}
        found = bound(given, flipped())["kd"]
        assert found.count == bound.count(flipped()) == count
        if isinstance(loss, CrossEntropy):
            expected = nn.functional.cross_entropy(logits[:count], torch.tensor(target), reduction="sum")
        else:
            expected = logits[:count].square().mean(-1).sum()
        torch.testing.assert_close(found.sum, expected)


def test_a_list_of_students_is_told_of_the_batch_itself() -> None:
    class Labelled(Spy):
        def forward(self, student: Any, teacher: Signals, batch: Batch, **roles: Any) -> Total:
            return Total(batch["labels"].float(), torch.tensor(1))

    bound = bind(Labelled(frozenset()), roles={"student": (Ref("a", "strong"), Ref("b", "strong"))})
    assert bound({}, flipped())["kd"].sum.tolist() == [0, 1, 2]


def test_counting_in_a_view_that_the_data_does_not_give() -> None:
    bound = bind(MSE(), roles={"student": Ref("student", "stong"), "teacher": TEACHER})
    with pytest.raises(RunError, match=r"^loss `kd`: the batch has no view `stong` \(views: plain, strong\)$"):
        bound.count(flipped())


@pytest.mark.parametrize(
    ("weight", "scheduled", "expected"),
    [(1.0, False, False), (1.0, True, True), (lambda progress: 2.0, False, True), (nn.Identity(), False, True)],
)
def test_a_schedule_is_that_of_the_weight_or_of_a_parameter(weight: Any, scheduled: bool, expected: bool) -> None:
    bound = BoundLoss("kd", Spy(), weight=weight, roles=ROLES, reads=(), scheduled=scheduled)
    assert bound.scheduled is expected


# --- resize -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("class_axis", "ours", "theirs", "student", "teacher"),
    [
        (1, (2, 3, 4, 4), (2, 5, 8, 6), (2, 3, 8, 6), (2, 5, 4, 4)),
        (-1, (2, 3, 4, 4), (2, 5, 8, 6), (2, 3, 8, 6), (2, 5, 4, 4)),  # a tap of a classifier
        (1, (2, 3, 7), (2, 5, 9), (2, 3, 9), (2, 5, 7)),  # (N, C, T)
        (-1, (2, 7, 3), (2, 9, 5), (2, 9, 3), (2, 7, 5)),  # (N, T, C)
        (2, (2, 7, 3), (2, 9, 5), (2, 9, 3), (2, 7, 5)),
        (1, (2, 3, 2, 4, 4), (2, 5, 4, 4, 4), (2, 3, 4, 4, 4), (2, 5, 2, 4, 4)),
        (-1, (2, 3), (2, 5), (2, 3), (2, 5)),  # nothing to resize
        (1, (2, 3, 4, 4), (2, 4, 4), (2, 3, 4, 4), (2, 4, 4)),  # nor here: let the loss complain
    ],
)
def test_resize_to_either_side(
    class_axis: int,
    ours: tuple[int, ...],
    theirs: tuple[int, ...],
    student: tuple[int, ...],
    teacher: tuple[int, ...],
) -> None:
    given = two(torch.randn(ours), torch.randn(theirs))
    for side, expected in (("student", (student, theirs)), ("teacher", (ours, teacher))):
        loss = Spy(class_axis=class_axis)
        bind(loss, resize=side)(given, {})
        assert (loss.given["student"]["logits"].shape, loss.given["teacher"]["logits"].shape) == expected


def test_the_gradient_goes_through_the_resized_student() -> None:
    ours = torch.randn(1, 2, 2, 2, requires_grad=True)
    bind(Squares(), resize="student")(two(ours, torch.zeros(1, 2, 4, 4)), {})["kd"].sum.backward()
    assert ours.grad is not None
    assert (ours.grad != 0).all()


def test_equal_sizes_are_left_as_they_are() -> None:
    ours = torch.randn(1, 2, 4, 4)
    loss = Spy()
    bind(loss, resize="student")(two(ours, torch.randn(1, 8, 4, 4)), {})
    assert loss.given["student"]["logits"] is ours


# --- projectors -------------------------------------------------------------------------------------------------------


def set_up(bound: BoundLoss, given: dict[Ref, Signals]) -> BoundLoss:
    bound.setup(given, {"classes": 3}, lambda name: nn.Linear(1, 1))
    return bound


def test_a_projector_joins_the_students_shape_to_the_teachers() -> None:
    loss = Spy()
    bound = set_up(bind(loss, projector=linear), two(torch.randn(2, 4), torch.randn(2, 7)))
    assert loss.example["student"]["logits"].shape == loss.example["teacher"]["logits"].shape == (2, 7)
    ours = torch.randn(5, 4)
    bound(two(ours, torch.randn(5, 7)), {})
    torch.testing.assert_close(loss.given["student"]["logits"], bound.projectors["logits"](ours))


def test_a_projector_is_trained_and_stored_with_the_loss() -> None:
    bound = set_up(bind(Squares(), projector=linear), two(torch.randn(2, 4), torch.randn(2, 7)))
    assert set(bound.state_dict()) == {"projectors.logits.weight", "projectors.logits.bias"}
    bound(two(torch.randn(5, 4), torch.randn(5, 7)), {})["kd"].sum.backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in bound.parameters())


def test_a_signal_with_dots_in_its_name_is_projected_too() -> None:
    loss = Spy(frozenset({"student.tap.deep", "teacher.tap.deep"}))
    given = signals(student={"tap.deep": torch.randn(2, 4)}, teacher={"tap.deep": torch.randn(2, 7)})
    bound = set_up(bind(loss, projector=linear), given)
    assert set(bound.state_dict()) == {"projectors.tap/deep.weight", "projectors.tap/deep.bias"}
    bound(given, {})
    assert loss.given["student"]["tap.deep"].shape == (2, 7)


def test_only_what_both_sides_give_is_projected() -> None:
    loss = Spy(frozenset({"student.logits", "student.mask", "teacher.logits", "teacher.extra"}))
    given = signals(
        student={"logits": torch.randn(2, 4), "mask": torch.randn(2, 9)},
        teacher={"logits": torch.randn(2, 7), "extra": torch.randn(2, 3)},
    )
    bound = set_up(bind(loss, projector=linear), given)
    assert list(bound.projectors) == ["logits"]
    assert loss.example["student"]["mask"].shape == (2, 9)


def test_a_loss_without_a_teacher_gets_no_projector() -> None:
    loss = Spy(frozenset({"student.logits"}))
    given = signals(student={"logits": torch.randn(2, 4)})
    assert not set_up(bind(loss, roles={"student": STUDENT}, projector=linear), given).projectors


def test_a_projector_meets_the_resized_student() -> None:
    loss = Spy(class_axis=1)
    given = two(torch.randn(2, 3, 4, 4), torch.randn(2, 5, 8, 8))
    set_up(bind(loss, resize="student", projector=conv1x1), given)
    assert loss.example["student"]["logits"].shape == (2, 5, 8, 8)


def test_the_dry_run_leaves_no_statistics_in_a_projector() -> None:
    bound = set_up(bind(Spy(), projector=conv1x1), two(torch.randn(2, 3, 4, 4), torch.randn(2, 5, 4, 4)))
    norm = bound.projectors["logits"][1]
    assert norm.num_batches_tracked == 0
    assert not norm.running_mean.any()
    assert norm.training
    assert bound.projectors.training


def test_shapes_that_a_projector_does_not_suit() -> None:
    with pytest.raises(RunError, match="loss `kd`: projector `linear` joins signals of shape"):
        set_up(bind(Spy(), projector=linear), two(torch.randn(2, 3, 4, 4), torch.randn(2, 5, 4, 4)))


@pytest.mark.parametrize(("key", "value"), [("resize", "student"), ("projector", linear)])
@pytest.mark.parametrize("role", ["student", "teacher"])
def test_a_list_cannot_be_joined(key: str, value: Any, role: str) -> None:
    named = {"resize": "resize", "projector": "project"}[key]
    expected = f"loss `kd`: `{named}` joins one student and one teacher, and its {role} is a list: give a loss to each"
    with pytest.raises(RunError, match=expected):
        bind(Spy(), roles={**ROLES, role: (Ref("a"), Ref("b"))}, **{key: value})


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_a_projector_takes_what_mixed_precision_gives(dtype: torch.dtype) -> None:
    bound = set_up(bind(Squares(), projector=linear), two(torch.randn(2, 4), torch.randn(2, 7)))
    ours = torch.randn(5, 4).to(dtype).requires_grad_()
    bound(two(ours, torch.randn(5, 7)), {})["kd"].sum.backward()
    assert ours.grad is not None
    assert ours.grad.dtype == dtype


def test_a_projector_without_parameters() -> None:
    loss = Spy()
    bound = set_up(bind(loss, projector=lambda a, b: nn.Identity()), two(torch.randn(2, 4), torch.randn(2, 4)))
    ours = torch.randn(5, 4)
    bound(two(ours, ours), {})
    assert loss.given["student"]["logits"] is ours


# --- setup ------------------------------------------------------------------------------------------------------------


def test_a_loss_is_set_up_with_what_it_will_read_and_the_models_of_its_roles() -> None:
    cast = Cast(Vectors(), {"student": net(1), "peer": net(2)})
    loss = Spy()
    bound = bind(loss, roles={"student": STUDENT, "teacher": Ref("peer", "weak")})
    given = {STUDENT: {"logits": torch.ones(2)}, Ref("peer", "weak"): {"logits": torch.zeros(2)}}
    bound.setup(given, {"classes": 3}, cast.module)
    assert loss.facts == {"classes": 3}
    assert loss.models("teacher") is cast.trained["peer"]
    assert loss.example["teacher"]["logits"].tolist() == [0.0, 0.0]


@pytest.mark.parametrize(
    ("role", "message"),
    [
        ("reference", "loss `kd` asks for the model of `reference`; bound: student, teacher"),
        ("teacher", "loss `kd` asks for the model of `teacher`, which is a list of 2"),
    ],
)
def test_a_loss_that_asks_for_a_model_there_is_not(role: str, message: str) -> None:
    loss = Spy(frozenset({"student.logits"}))
    bound = bind(loss, roles={"student": STUDENT, "teacher": (Ref("a"), Ref("b"))})
    set_up(bound, signals(student={"logits": torch.ones(2)}))
    with pytest.raises(RunError, match=message):
        loss.models(role)


class WithParts(Spy):
    needs: ClassVar[frozenset[str]] = frozenset({"student.logits"})

    def setup(self, example: Any, facts: Any, models: Any) -> None:
        self.head = nn.Linear(example["student"]["logits"].shape[-1], facts["classes"])


def test_what_a_loss_makes_for_itself_is_stored_under_it() -> None:
    bound = set_up(bind(WithParts()), signals(student={"logits": torch.ones(2, 4)}))
    assert {name: tuple(value.shape) for name, value in bound.state_dict().items()} == {
        "loss.head.weight": (3, 4),
        "loss.head.bias": (3,),
    }


def test_what_a_loss_refuses_is_said_with_its_name() -> None:
    bound = BoundLoss("kd", MSE(), weight=1.0, roles=ROLES, reads=reads_of(MSE(), ROLES, signal=None, read={}))
    signals = {STUDENT: {"logits": torch.zeros(2, 3)}, TEACHER: {"logits": torch.zeros(2, 4)}}
    with pytest.raises(RunError, match=r"^loss `kd`: the student's signal has shape \(2, 3\), the teacher's \(2, 4\)"):
        bound(signals, {"id": torch.arange(2)})
    lone = {"student": STUDENT}
    entropy = CrossEntropy()
    bound = BoundLoss("ce", entropy, weight=1.0, roles=lone, reads=reads_of(entropy, lone, signal=None, read={}))
    with pytest.raises(RunError, match=r"^loss `ce`: cross_entropy reads the batch's `labels`"):
        bound(signals, {"id": torch.arange(2)})
