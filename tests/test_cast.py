"""Who is run in a step: each model and view once, teachers first, frozen ones without gradients."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import nn
from toy_stage import Vectors, batch_of, net

from kdcore.cast import Cast
from kdcore.errors import RunError
from kdcore.recipe.schema import Ref
from kdcore.signals import Batch
from kdcore.taps import Taps
from kdcore.tasks.classify import Classify
from kdcore.teachers import Frozen, ema, ensemble


def cast_of() -> Cast:
    """Two trained nets, three frozen ones, two ensembles, and a follower."""
    trained = {"student": net(1), "peer": net(2)}
    follower = ema(of="student")
    follower.follow(trained["student"])
    return Cast(
        Vectors(),
        trained,
        {name: Frozen(net(seed)) for seed, name in enumerate(("zeus", "hera", "ares"), start=3)},
        {"mean": follower},
        {"frozen": ensemble(of=["zeus", "hera"]), "online": ensemble(of=["student", "peer"])},
    )


def task_of(cast: Cast) -> Vectors:
    assert isinstance(cast.task, Vectors)
    return cast.task


def called(cast: Cast) -> list[str]:
    names = {id(cast.module(name)): name for name in (*cast.trained, *cast.frozen, *cast.followers)}
    return [names[id(model)] for model, *_ in task_of(cast).calls]


# --- the order --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        (["student"], ["student"]),
        (["student", "zeus"], ["zeus", "student"]),
        (["peer", "student", "mean", "ares"], ["ares", "mean", "peer", "student"]),
        (["student", "frozen"], ["zeus", "hera", "frozen", "student"]),
        (["student", "frozen", "zeus", "ares"], ["ares", "zeus", "hera", "frozen", "student"]),
        (["online"], ["student", "peer", "online"]),
        (["student", "online", "frozen"], ["zeus", "hera", "frozen", "student", "peer", "online"]),
        ([], []),
    ],
)
def test_teachers_come_first_and_everyone_once(wanted: list[str], expected: list[str]) -> None:
    assert cast_of().order(Ref(name) for name in wanted * 2) == tuple(Ref(name) for name in expected)


def test_every_view_is_a_run_of_its_own() -> None:
    wanted = {Ref("student"), Ref("zeus", "weak"), Ref("zeus"), Ref("frozen", "weak")}
    assert cast_of().order(wanted) == (
        Ref("zeus", "weak"),
        Ref("hera", "weak"),
        Ref("frozen", "weak"),
        Ref("zeus"),
        Ref("student"),
    )


def reading(cast: Cast, **reads: str) -> Cast:
    for name, read in reads.items():
        cast.module(name).reads = (read,)  # type: ignore[assignment]
    return cast


@pytest.mark.parametrize(
    ("reads", "wanted", "expected"),
    [
        ({"student": "zeus"}, ["student"], ["zeus", "student"]),
        ({"student": "frozen"}, ["student"], ["zeus", "hera", "frozen", "student"]),
        ({"student": "mean"}, ["student", "ares"], ["ares", "mean", "student"]),
        ({"ares": "zeus"}, ["ares", "student"], ["zeus", "ares", "student"]),  # against the alphabet
        ({"ares": "zeus"}, ["student"], ["student"]),
        ({"ares": "frozen"}, ["ares"], ["zeus", "hera", "frozen", "ares"]),  # as a frozen draft is scored
        ({"ares": "hera", "hera": "zeus"}, ["ares"], ["zeus", "hera", "ares"]),  # a reader of a reader
        ({"zeus": "ares"}, ["frozen"], ["ares", "zeus", "hera", "frozen"]),  # a member of an ensemble reads
        ({"zeus": "ares"}, ["frozen", "online"], ["ares", "zeus", "hera", "frozen", "student", "peer", "online"]),
    ],
)
def test_who_reads_a_model_runs_after_it(reads: dict[str, str], wanted: list[str], expected: list[str]) -> None:
    cast = reading(cast_of(), **reads)
    assert cast.order(Ref(name) for name in wanted) == tuple(Ref(name) for name in expected)


def test_a_frozen_reader_is_shown_what_it_reads() -> None:
    cast = reading(cast_of(), ares="zeus")
    cast.run(cast.order([Ref("ares")]), batch_of())
    assert called(cast) == ["zeus", "ares"]
    assert [list(others) for _, _, others, *_ in task_of(cast).calls] == [[], ["zeus"]]


def test_a_frozen_reader_of_an_ensemble_is_shown_it() -> None:
    cast = reading(cast_of(), ares="frozen")
    cast.run(cast.order([Ref("ares")]), batch_of())
    assert task_of(cast).calls[-1][2] == ("zeus", "hera", "frozen")


def test_an_online_ensemble_is_shown_to_no_model_being_trained() -> None:
    cast = cast_of()
    cast.run(cast.order([Ref("online"), Ref("student"), Ref("peer")]), batch_of())
    assert [others for *_, others, _ in task_of(cast).calls] == [(), ()]


@pytest.mark.parametrize(
    ("reads", "circle"),
    [
        ({"ares": "zeus", "zeus": "ares"}, "`ares` <- `zeus` <- `ares`"),
        ({"ares": "hera", "zeus": "frozen"}, "`frozen` <- `zeus` <- `frozen`"),
    ],
)
def test_models_that_read_each_other_are_refused(reads: dict[str, str], circle: str) -> None:
    cast = reading(cast_of(), **reads)
    with pytest.raises(RunError, match=f"^these models are computed from each other's signals: {circle}$"):
        cast.order([Ref("ares"), Ref("frozen")])


@pytest.mark.parametrize("read", ["peer", "apollo"])
def test_what_is_read_must_be_a_teacher(read: str) -> None:
    cast = reading(cast_of(), student=read)
    with pytest.raises(RunError) as found:
        cast.order([Ref("student")])
    assert str(found.value) == (
        f"model `student` reads the signals of `{read}`, which is no teacher of this stage: "
        "name it among the stage's `teachers`"
    )


# --- a step -----------------------------------------------------------------------------------------------------------


def test_each_model_is_run_once_and_gives_its_own_signals() -> None:
    cast, batch = cast_of(), batch_of()
    order = cast.order([Ref("student"), Ref("zeus"), Ref("frozen"), Ref("mean")])
    found = cast.run(order, batch)
    assert called(cast) == ["zeus", "hera", "mean", "student"]
    for name in ("student", "zeus", "mean"):
        torch.testing.assert_close(found[Ref(name)]["logits"], cast.module(name)(batch["x"]), rtol=0, atol=0)
    expected = (found[Ref("zeus")]["logits"].softmax(-1) + found[Ref("hera")]["logits"].softmax(-1)) / 2
    torch.testing.assert_close(found[Ref("frozen")]["logits"].softmax(-1), expected)


def test_the_task_is_shown_the_teachers_signals_before_the_student_is_run() -> None:
    cast = cast_of()
    cast.run(cast.order([Ref("student"), Ref("peer"), Ref("frozen"), Ref("ares", "weak")]), with_views())
    assert [others for *_, others, _ in task_of(cast).calls] == [
        (),  # ares, and what it sees of a view is no answer about the batch
        (),  # zeus
        ("zeus",),  # hera
        ("zeus", "hera", "frozen"),  # peer
        ("zeus", "hera", "frozen"),  # student: what is trained with it is no teacher
    ]


def with_views() -> Batch:
    return {**batch_of(), "views": {"weak": {"x": torch.zeros(2, 6)}, "strong": {"x": torch.ones(3, 6)}}}


def test_a_model_sees_the_view_it_is_bound_to() -> None:
    cast, batch = cast_of(), with_views()
    found = cast.run(cast.order([Ref("student"), Ref("student", "strong"), Ref("zeus", "weak")]), batch)
    seen = {(model, x.shape[0]) for model, _, _, x in task_of(cast).calls}
    assert seen == {(cast.module("zeus"), 2), (cast.module("student"), 16), (cast.module("student"), 3)}
    assert {ref: signals["logits"].shape[0] for ref, signals in found.items()} == {
        Ref("student"): 16,
        Ref("student", "strong"): 3,
        Ref("zeus", "weak"): 2,
    }


@pytest.mark.parametrize(("batch", "known"), [(with_views(), "strong, weak"), (batch_of(), "none")])
def test_a_view_that_the_data_does_not_give(batch: Batch, known: str) -> None:
    cast = cast_of()
    expected = rf"model `zeus` is to see the view `week`: the batch has no view `week` \(views: {known}\)"
    with pytest.raises(RunError, match=expected):
        cast.run((Ref("zeus", "week"),), batch)


# --- gradients --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("live", [frozenset[str](), frozenset({"zeus"})])
def test_only_what_is_trained_runs_with_gradients(live: frozenset[str]) -> None:
    cast = cast_of()
    cast.live = live
    found = cast.run(cast.order([Ref("student"), Ref("zeus"), Ref("mean")]), batch_of())
    with_grad = {name for name, (_, grad, *_) in zip(called(cast), task_of(cast).calls, strict=True) if grad}
    assert with_grad == {"student"} | live
    assert {ref.model for ref, signals in found.items() if signals["logits"].requires_grad} == {"student"}


def test_a_live_teacher_passes_a_gradient_on_to_its_input() -> None:
    cast, batch = cast_of(), batch_of()
    batch["x"].requires_grad_()
    cast.live = frozenset({"zeus"})
    found = cast.run((Ref("hera"), Ref("zeus")), batch)
    assert not found[Ref("hera")]["logits"].requires_grad
    found[Ref("zeus")]["logits"].sum().backward()
    assert batch["x"].grad.abs().sum() > 0
    assert all(p.grad is None for p in cast.module("zeus").parameters())


def test_what_a_teacher_gives_can_be_saved_for_the_students_backward() -> None:
    """Inference tensors could not."""
    cast = cast_of()
    found = cast.run((Ref("zeus"), Ref("student")), batch_of())
    (found[Ref("student")]["logits"] * found[Ref("zeus")]["logits"]).sum().backward()
    assert not found[Ref("zeus")]["logits"].is_inference()


def test_without_gradients_there_are_none() -> None:
    cast = cast_of()
    cast.live = frozenset({"zeus"})
    with torch.no_grad():
        cast.run(cast.order([Ref("student"), Ref("zeus")]), batch_of())
    assert not any(grad for _, grad, *_ in task_of(cast).calls)


# --- taps and timing --------------------------------------------------------------------------------------------------


def test_taps_of_every_model_join_its_signals_in_every_view() -> None:
    cast, batch = cast_of(), with_views()
    for name in ("student", "zeus"):
        cast.taps[name] = Taps(cast.module(name), {"deep": "2"}, name)
    found = cast.run(cast.order([Ref("student"), Ref("student", "weak"), Ref("zeus"), Ref("hera")]), batch)
    assert [sorted(signals) for signals in found.values()] == [
        ["logits"],
        ["logits", "tap.deep"],
        ["logits", "tap.deep"],
        ["logits", "tap.deep"],
    ]
    student = cast.module("student")
    for view, x in ((None, batch["x"]), ("weak", batch["views"]["weak"]["x"])):
        given = found[Ref("student", view)]
        torch.testing.assert_close(student[3](given["tap.deep"]), student(x))
    assert found[Ref("student")]["tap.deep"].requires_grad
    assert not found[Ref("zeus")]["tap.deep"].requires_grad


def test_the_timer_is_told_of_teachers_only() -> None:
    cast, timed = cast_of(), []

    @contextmanager
    def timer(what: str) -> Iterator[None]:
        before = len(task_of(cast).calls)
        yield
        timed.append((what, called(cast)[before:]))

    cast.run(cast.order([Ref("student"), Ref("frozen"), Ref("mean")]), batch_of(), timer)
    assert timed == [("teacher", ["zeus"]), ("teacher", ["hera"]), ("teacher", ["mean"])]


# --- the nets behind the names ----------------------------------------------------------------------------------------


def test_modules() -> None:
    cast = cast_of()
    assert cast.module("student") is cast.trained["student"]
    assert cast.module("zeus") is cast.frozen["zeus"].module
    assert cast.module("mean") is cast.followers["mean"].module


@pytest.mark.parametrize(
    ("name", "message"), [("frozen", "`frozen` is no single net"), ("zoe", "no model `zoe` in this stage")]
)
def test_a_name_without_a_net(name: str, message: str) -> None:
    with pytest.raises(RunError, match=message):
        cast_of().module(name)


def test_apply_reaches_every_teacher_and_no_student() -> None:
    cast = cast_of()
    cast.followers["late"] = ema(of="peer")  # has not begun
    cast.apply(lambda tensor: tensor.double())
    types = {name: next(cast.module(name).parameters()).dtype for name in (*cast.trained, *cast.holders())}
    assert types.keys() == {"student", "peer", "zeus", "hera", "ares", "mean"}
    assert {name for name, dtype in types.items() if dtype == torch.float64} == {"zeus", "hera", "ares", "mean"}


def test_what_a_task_refuses_is_said_with_the_models_name() -> None:
    cast = Cast(Classify(classes=3), {"student": nn.Linear(4, 5)})
    with pytest.raises(RunError, match=r"^model `student`: the model gives 5 classes, the task has 3"):
        cast.run((Ref("student"),), {"image": torch.zeros(2, 4)})
    with pytest.raises(RunError, match=r"^model `student`: the task `classify` reads `image`"):
        cast.run((Ref("student"),), {"id": torch.zeros(2)})
