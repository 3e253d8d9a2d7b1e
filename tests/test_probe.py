"""The checks before the first step: what they stop, what they let pass, and that they leave no trace."""

from __future__ import annotations

import copy
import math
import random
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from toy_stage import CLASSES, Labels, Squares, Vectors, batch_of, bind, net, ready

from kdcore.binding import BoundLoss
from kdcore.cast import Cast
from kdcore.errors import RunError
from kdcore.losses.base import Loss, Total
from kdcore.losses.kl import KL
from kdcore.probe import _others_like, check_losses, check_teacher
from kdcore.projectors import conv1x1, linear
from kdcore.recipe.schema import Ref
from kdcore.schedules import Progress
from kdcore.schedules import linear as linear_schedule
from kdcore.signals import Batch, Signals
from kdcore.task import Task
from kdcore.teachers import Frozen, ema, ensemble

STUDENT, TEACHER = Ref("student"), Ref("teacher")


def cast_of(student: nn.Module | None = None, teacher: nn.Module | None = None) -> Cast:
    return Cast(
        Vectors(),
        {"student": net(1, norm=True) if student is None else student},
        {"teacher": Frozen(net(2, norm=True) if teacher is None else teacher)},
    )


class Written(Loss):
    """A loss of a few lines."""

    def __init__(self, rule: Callable[[Tensor, Tensor], Tensor], *, count: int = 1) -> None:
        super().__init__()
        self.rule, self.terms = rule, count

    def forward(self, student: Signals, teacher: Signals, batch: Batch, **roles: Any) -> Total:
        value = self.rule(student["logits"], teacher["logits"]).sum()
        return Total(value * self.terms, torch.tensor(self.terms))


def probe(loss: Loss, cast: Cast | None = None, **slot: Any) -> list[str]:
    cast = cast_of() if cast is None else cast
    return check_losses(cast, ready(cast, [bind(loss, **slot)]), batch_of())


# --- the teacher knows something --------------------------------------------------------------------------------------


class Scored(Vectors):
    def __init__(self, mode: str, chance: float | None) -> None:
        super().__init__()
        self.primary = ("score", mode)
        self._chance = chance

    def chance(self) -> float | None:
        return self._chance


@pytest.mark.parametrize(
    ("mode", "value", "chance", "stops"),
    [
        ("max", 0.9, 0.5, False),
        ("max", 0.5, 0.5, True),
        ("max", 0.1, 0.5, True),
        ("min", 0.1, 0.5, False),
        ("min", 0.5, 0.5, True),
        ("min", 0.9, 0.5, True),
        ("max", 0.0, None, False),
        ("min", math.inf, 4.0, True),
    ],
)
def test_a_teacher_at_chance_stops_the_run(mode: str, value: float, chance: float | None, stops: bool) -> None:
    task: Task = Scored(mode, chance)
    if not stops:
        check_teacher("big", {"score": value}, task)
        return
    with pytest.raises(RunError) as error:
        check_teacher("big", {"score": value}, task)
    text = str(error.value)
    assert f"the teacher `big` has score {value:.3f} on the validation set, and guessing has {chance:.3f}" in text
    assert all(
        cause in text for cause in ("another order", "not normalised", "`mean`, `std`", "never loaded (`weights`)")
    )


@pytest.mark.parametrize("chance", [0.5, None])
def test_a_teacher_whose_score_is_no_number_stops_the_run(chance: float | None) -> None:
    with pytest.raises(
        RunError, match=r"`big` has score nan .*: it gives values that are no numbers. Were its weights"
    ):
        check_teacher("big", {"score": math.nan}, Scored("max", chance))


def test_a_teacher_without_the_primary_metric_is_not_judged() -> None:
    check_teacher("big", {"other": 0.0}, Scored("max", 0.5))


# --- what passes ------------------------------------------------------------------------------------------------------


def sorted_values(s: Tensor, t: Tensor) -> Tensor:
    return (s.flatten().sort().values - t.flatten().sort().values).square()


def histogram(s: Tensor, t: Tensor) -> Tensor:
    """Soft histograms of all values."""
    edges = torch.linspace(-2, 2, 9)
    ours, theirs = (torch.sigmoid((x.flatten()[:, None] - edges) * 4).mean(0) for x in (s, t))
    return (ours - theirs).square()


PASSES = {
    "squares": Squares(),
    "kl": KL(temperature=3.0),
    "labels only": Labels(),
    "sorted": Written(sorted_values),
    "histogram": Written(histogram),
    "moments": Written(lambda s, t: (s.mean() - t.mean()).square() + (s.std() - t.std()).square()),
    "best class": Written(lambda s, t: nn.functional.cross_entropy(s, t.argmax(-1))),
    "tiny": Written(lambda s, t: 1e-30 * (s - t).square()),
    "huge": Written(lambda s, t: 1e25 * (s - t).square()),
    "negative": Written(lambda s, t: -(s * t)),
}


@pytest.mark.parametrize("loss", PASSES.values(), ids=PASSES)
def test_a_loss_that_lives_passes(loss: Loss) -> None:
    assert probe(loss) == []


@pytest.mark.parametrize("loss", [Squares(), KL()], ids=["squares", "kl"])
def test_a_student_equal_to_its_teacher_passes(loss: Loss) -> None:
    teacher = net(1)  # batch norm would tell train mode from eval mode
    assert probe(loss, cast_of(copy.deepcopy(teacher), teacher)) == []


def test_a_student_whose_last_layer_begins_at_zero_passes() -> None:
    student = net(1)
    nn.init.zeros_(student[3].weight)
    nn.init.zeros_(student[3].bias)
    assert probe(Squares(), cast_of(student)) == []


def test_a_student_with_frozen_parts_and_integer_buffers_passes() -> None:
    student = net(1, norm=True)
    student[0].requires_grad_(False)
    student.register_buffer("steps", torch.tensor([3, 4]))
    student.register_buffer("flags", torch.tensor([True]), persistent=False)
    student.register_buffer("none", None)
    assert probe(Squares(), cast_of(student)) == []
    assert student.steps.tolist() == [3, 4]


def test_several_losses_share_one_run_of_the_models() -> None:
    cast = cast_of()
    losses = ready(cast, [bind(Squares(), name="a"), bind(KL(), name="b"), bind(Labels(), name="ce")])
    cast.task.calls.clear()
    assert check_losses(cast, losses, batch_of()) == []
    assert len(cast.task.calls) == 2


def test_an_ensemble_a_list_and_a_moving_average_pass_as_teachers() -> None:
    class Nearest(Loss):
        def forward(self, student: Signals, teacher: Any, batch: Batch, **roles: Any) -> Total:
            distances = torch.stack([(student["logits"] - one["logits"]).square().sum(-1) for one in teacher])
            return Total(distances.amin(0).sum(), torch.tensor(distances.shape[1]))

    cast = cast_of()
    cast.frozen["other"] = Frozen(net(3))
    cast.ensembles["both"] = ensemble(of=["teacher", "other"])
    cast.followers["mean"] = ema(of="student")
    cast.followers["mean"].follow(cast.trained["student"])
    losses = [
        bind(KL(), name="a", roles={"student": STUDENT, "teacher": Ref("both")}),
        bind(Squares(), name="b", roles={"student": STUDENT, "teacher": Ref("mean")}),
        bind(Nearest(), name="c", roles={"student": STUDENT, "teacher": (TEACHER, Ref("other"))}),
    ]
    assert check_losses(cast, ready(cast, losses), batch_of()) == []


def test_models_that_teach_each_other_pass() -> None:
    cast = Cast(Vectors(), {"student": net(1), "peer": net(2)})
    losses = [
        bind(KL(), name="a", roles={"student": STUDENT, "teacher": Ref("peer")}),
        bind(KL(), name="b", roles={"student": Ref("peer"), "teacher": STUDENT}),
    ]
    assert check_losses(cast, ready(cast, losses), batch_of()) == []


class Exits(nn.Module):
    """An early exit beside the last one."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.exit1 = net(1), nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"logits": self.body(x), "exit1": self.exit1(x)}


def test_self_distillation_between_exits_passes() -> None:
    cast = Cast(Vectors(), {"student": Exits()})
    bound = bind(
        Squares(),
        roles={"student": STUDENT},
        read={"student.logits": "student.exit1", "teacher.logits": "student.logits"},
    )
    assert check_losses(cast, ready(cast, [bound]), batch_of()) == []


def test_a_net_that_teaches_itself_through_one_signal_is_not_asked_to_listen() -> None:
    cast = Cast(Vectors(), {"student": net(1)})
    sharpen = Written(lambda s, t: (s - t.sign()).square())
    bound = bind(sharpen, roles={"student": STUDENT}, read={"teacher.logits": "student.logits"})
    assert check_losses(cast, ready(cast, [bound]), batch_of()) == []


@pytest.mark.parametrize("codes", [torch.tensor([0, 1, 2, 1] * 4), torch.tensor([True, False] * 8)])
def test_a_loss_that_reads_whole_numbers_of_its_teacher_passes(codes: Tensor) -> None:
    class Codes(nn.Module):
        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return {"logits": torch.zeros(len(x), CLASSES), "codes": codes[: len(x)]}

    class Imitate(Loss):
        needs: ClassVar[frozenset[str]] = frozenset({"student.logits", "teacher.codes"})

        def forward(self, student: Signals, teacher: Signals, batch: Batch, **roles: Any) -> Total:
            value = nn.functional.cross_entropy(student["logits"], teacher["codes"].long(), reduction="sum")
            return Total(value, torch.tensor(len(teacher["codes"])))

    assert probe(Imitate(), cast_of(teacher=Codes())) == []


def test_a_loss_that_fades_its_teacher_out_passes() -> None:
    class Annealed(Loss):
        def forward(self, student: Signals, teacher: Signals, batch: Batch, **roles: Any) -> Total:
            share = 1.0 - self.progress
            near = (student["logits"] - teacher["logits"]).square().sum()
            small = student["logits"].square().sum()
            return Total(share * near + (1 - share) * small, torch.tensor(1))

    assert probe(Annealed()) == []


def test_schedules_are_taken_at_their_end() -> None:
    """A loss that is warmed up begins with no gradient at all."""

    class Warm(Loss):
        def __init__(self) -> None:
            super().__init__()
            self.share, self.seen = linear_schedule(), [0.0]

        def forward(self, student: Signals, teacher: Signals, batch: Batch, **roles: Any) -> Total:
            self.seen.append(float(self.progress))
            near = (student["logits"] - teacher["logits"]).square().sum()
            return Total(self.now(self.share) * near, torch.tensor(1))

    loss = Warm()
    assert probe(loss, weight=linear_schedule()) == []
    assert set(loss.seen[1:]) == {1.0}
    assert loss.progress == 0.0


# --- what stops -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (
            lambda s, t: (s.detach() - t).square(),
            "has no gradient at `student`: it would train nothing. Is the student",
        ),
        (lambda s, t: (s - s + t).square(), "has no gradient at `student`"),
        (lambda s, t: (s * math.nan).sum(), r"loss `kd` is nan on the first batch$"),
        (lambda s, t: (s * math.inf).sum(), r"loss `kd` is (nan|-?inf) on the first batch$"),
        (
            lambda s, t: ((s - s.detach()).abs() + t * 0).sqrt().sum(),
            r"has a gradient that is (nan|inf) at the student",
        ),
        (lambda s, t: s.square(), "does not change when its teacher's signals are replaced by others like them"),
        (lambda s, t: s.square() + 0 * t, "it would distil nothing. Is it bound to the right signal?"),
        (lambda s, t: s.square() * t.softmax(-1).sum(-1, keepdim=True).round(), "does not change when its teacher's"),
        (lambda s, t: (s + torch.rand_like(s)).square(), "does not change when its teacher's"),  # noise is no teacher
    ],
)
def test_a_loss_that_does_nothing_stops_the_run(rule: Callable[[Tensor, Tensor], Tensor], message: str) -> None:
    with pytest.raises(RunError, match=message) as error:
        probe(Written(rule))
    assert "loss `kd`" in str(error.value)


def test_a_loss_that_only_counts_its_calls_does_not_listen() -> None:
    class Counting(Loss):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, student: Signals, teacher: Signals, batch: Batch, **roles: Any) -> Total:
            self.calls += 1
            return Total((student["logits"] * self.calls).square().sum(), torch.tensor(1))

    with pytest.raises(RunError, match="does not change when its teacher's"):
        probe(Counting())


def test_a_student_that_is_frozen_stops_the_run() -> None:
    with pytest.raises(RunError, match=r"has no gradient at `student`: .* Is the student frozen"):
        probe(Squares(), cast_of(net(1).requires_grad_(False)))


@pytest.mark.parametrize(("value", "word"), [(math.nan, "NaN"), (math.inf, "inf")])
def test_a_teacher_that_gives_no_numbers_is_named(value: float, word: str) -> None:
    teacher = net(2)
    nn.init.constant_(teacher[3].bias, value)
    with pytest.raises(RunError, match=f"loss `kd` is .* on the first batch: `logits` of model `teacher` holds {word}"):
        probe(Squares(), cast_of(teacher=teacher))


def test_a_student_that_gives_no_numbers_is_named() -> None:
    student = net(2)
    nn.init.constant_(student[3].bias, math.nan)
    with pytest.raises(RunError, match="`logits` of model `student` holds NaN"):
        probe(Labels(), cast_of(student))


def test_a_masked_class_of_the_teacher_is_no_fault() -> None:
    teacher = net(2)
    nn.init.constant_(teacher[3].bias[1:2], -math.inf)
    assert probe(KL(), cast_of(teacher=teacher)) == []


# --- the teacher does not learn ---------------------------------------------------------------------------------------


def test_a_frozen_teacher_that_was_thawed_stops_the_run() -> None:
    cast = cast_of()
    cast.module("teacher")[3].bias.requires_grad_(True)
    with pytest.raises(
        RunError, match=r"`3\.bias` of the frozen teacher `teacher` requires a gradient: something has thawed"
    ):
        probe(Squares(), cast)


class Borrows(Loss):
    """Feeds the student's features to the teacher's head (SimKD)."""

    def __init__(self, *, plainly: bool) -> None:
        super().__init__()
        self.plainly = plainly

    def setup(self, example: Any, facts: Any, models: Any) -> None:
        head = models("teacher")[3]
        self.head = (head,) if self.plainly else nn.ModuleList([head])

    def forward(self, student: Signals, teacher: Signals, batch: Batch, **roles: Any) -> Total:
        given = self.head[0](nn.functional.pad(student["logits"], (0, 5)))
        return Total((given - teacher["logits"]).square().sum(), torch.tensor(1))


def test_a_gradient_may_flow_through_a_frozen_teachers_head() -> None:
    cast = cast_of()
    assert probe(Borrows(plainly=True), cast) == []
    assert all(p.grad is None for p in cast.module("teacher").parameters())


def test_a_loss_that_makes_a_part_of_the_teacher_its_own_stops_the_run() -> None:
    """It would be trained in train mode, and stored with the student."""
    with pytest.raises(RunError, match=r"loss `kd` holds a part of the frozen teacher `teacher` \(Linear\) as its own"):
        probe(Borrows(plainly=False))


@pytest.mark.parametrize("live", [False, True])
def test_a_trained_teacher_gets_no_gradient_unless_the_loss_says_so(live: bool) -> None:
    class Pulls(Squares):
        """Goes around the binding and runs the peer itself."""

        def setup(self, example: Any, facts: Any, models: Any) -> None:
            self.peer = (models("teacher"),)

        def forward(self, student: Signals, teacher: Signals, batch: Batch, **roles: Any) -> Total:
            return super().forward(student, {"logits": self.peer[0](batch["x"]) + teacher["logits"]}, batch)

    Pulls.live = live
    cast = Cast(Vectors(), {"student": net(1), "peer": net(2)})
    losses = ready(cast, [bind(Pulls(), roles={"student": STUDENT, "teacher": Ref("peer")})])
    if live:
        assert check_losses(cast, losses, batch_of()) == []
        return
    with pytest.raises(RunError, match="loss `kd` has a gradient at its teacher `peer`, which would learn to please"):
        check_losses(cast, losses, batch_of())


# --- what is only said ------------------------------------------------------------------------------------------------


def test_a_loss_that_selects_nothing_is_warned_of() -> None:
    expected = "loss `kd` selected nothing in the first batch: its value is 0 there"
    assert probe(Written(lambda s, t: (s - t) * 0, count=0)) == [expected]


def test_one_part_that_selects_something_is_enough() -> None:
    class Parts(Loss):
        def forward(self, student: Signals, teacher: Signals, batch: Batch, **roles: Any) -> dict[str, Total]:
            near = (student["logits"] - teacher["logits"]).square().sum()
            return {"empty": Total(near * 0, torch.tensor(0)), "near": Total(near, torch.tensor(1))}

    assert probe(Parts()) == []


@pytest.mark.parametrize("end", [0.0, torch.tensor(0.0)])
def test_a_weight_that_ends_at_zero_is_warned_of(end: float | Tensor) -> None:
    expected = ["loss `kd` has weight 0 at the end of its schedule"]
    assert probe(Squares(), weight=lambda progress: end if progress == 1.0 else 1.0) == expected


def test_warnings_of_all_losses_are_collected() -> None:
    cast = cast_of()
    losses = [
        bind(Squares(), name="a", weight=linear_schedule(start=1.0, end=0.0)),
        bind(KL(), name="b"),
        bind(Written(lambda s, t: s * 0, count=0), name="c"),
    ]
    found = check_losses(cast, ready(cast, losses), batch_of())
    assert [line.split("`")[1] for line in found] == ["a", "c"]


# --- no trace ---------------------------------------------------------------------------------------------------------


class Restless(nn.Module):
    """Changes its buffers in every way there is, draws from every generator, and drops out."""

    steps: Tensor
    queue: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.body = net(1, norm=True)
        self.drop = nn.Dropout(0.5)
        self.register_buffer("steps", torch.tensor(0))
        self.register_buffer("queue", torch.zeros(2, 6), persistent=False)
        self.register_buffer("late", None)

    def forward(self, x: Tensor) -> Tensor:
        self.steps += 1
        self.queue = torch.cat([self.queue, x.detach()])[-5:]  # another tensor of another shape
        self.late = x.detach().mean(0)
        self.register_buffer(f"new{self.steps}", torch.ones(1))
        random.random()
        np.random.rand()
        out: Tensor = self.drop(self.body(x))
        return out


def generators() -> tuple[Any, ...]:
    _, keys, position, *_ = np.random.get_state()
    return torch.get_rng_state().tolist(), random.getstate(), keys.tolist(), position


def state_of(cast: Cast, losses: list[BoundLoss]) -> list[Any]:
    """Everything that must be as before, by value."""
    trees = [*cast.trained.values(), *(holder.module for holder in cast.holders().values()), *losses]
    tensors = [
        {
            name: None if value is None else value.detach().clone()
            for name, value in {**part._parameters, **part._buffers}.items()
        }
        for tree in trees
        for part in tree.modules()
    ]
    modes = [part.training for tree in trees for part in tree.modules()]
    learning = [p.requires_grad for tree in trees for p in tree.parameters()]
    grads = [p.grad is None for tree in trees for p in tree.parameters()]
    return [tensors, modes, learning, grads, [loss.loss.progress for loss in losses], generators()]


def same(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor):
        return isinstance(other, Tensor) and one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(value, other[key]) for key, value in one.items())
    if isinstance(one, list):
        return len(one) == len(other) and all(same(a, b) for a, b in zip(one, other, strict=True))
    return bool(one == other)


class Memory(Squares):
    """Keeps a running mean of the teacher."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(CLASSES))
        self.mean: Tensor

    def forward(self, student: Signals, teacher: Signals, batch: Batch, **roles: Any) -> Total:
        self.mean.lerp_(teacher["logits"].mean(0), 0.5)
        return super().forward(student, teacher, batch)


@pytest.mark.parametrize("fails", [False, True])
def test_everything_is_as_before_also_when_a_check_fails(fails: bool) -> None:
    student = Restless()
    student.body[1].eval()  # a frozen part
    cast = cast_of(student, Restless())
    losses = ready(
        cast,
        [
            bind(Memory(), name="memory"),
            bind(Squares(), name="projected", projector=linear, weight=linear_schedule()),
            *([bind(Written(lambda s, t: s.square()), name="deaf")] if fails else []),
        ],
    )
    for loss in losses:
        loss.loss.progress = Progress(0.25)
    identities = [(id(p)) for p in (*student.parameters(), *student.buffers())]
    before = state_of(cast, losses)

    def prepare(batch: Batch) -> Batch:
        student(batch["x"])  # as an adversarial view does
        student.eval()
        return {**batch, "x": batch["x"] * 2}

    if fails:
        with pytest.raises(RunError, match="loss `deaf` does not change"):
            check_losses(cast, losses, batch_of(), prepare)
    else:
        check_losses(cast, losses, batch_of(), prepare)
    after = state_of(cast, losses)
    for what, one, other in zip(("tensors", "modes", "learns", "grads", "progress", "rng"), before, after, strict=True):
        assert same(one, other), what
    assert [(id(p)) for p in (*student.parameters(), *student.buffers())] == identities


def test_batch_norm_of_student_and_projector_keep_their_statistics() -> None:
    class Maps(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv1d(1, width, 3), nn.BatchNorm1d(width)

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return {"logits": self.norm(self.conv(x.unsqueeze(1)))}

    cast = cast_of(Maps(2), Maps(5))
    losses = ready(cast, [bind(Squares(), projector=conv1x1)])
    # `ready` ran the student in train mode: statistics that are not those of a fresh net
    before = copy.deepcopy([cast.module("student").state_dict(), losses[0].state_dict()])
    assert check_losses(cast, losses, batch_of()) == []
    after = [cast.module("student").state_dict(), losses[0].state_dict()]
    assert same([dict(one) for one in before], [dict(one) for one in after])
    assert after[1]["projectors.logits.1.num_batches_tracked"] == 0
    assert after[0]["norm.num_batches_tracked"] == 1


def test_the_models_see_the_prepared_batch() -> None:
    cast = cast_of()
    losses = ready(cast, [bind(Squares())])
    check_losses(cast, losses, batch_of(), lambda batch: {**batch, "x": torch.full_like(batch["x"], 7.0)})
    assert all((x == 7.0).all() for *_, x in cast.task.calls[-2:])


def test_it_works_where_gradients_are_off() -> None:
    with torch.no_grad():
        assert probe(Squares()) == []


# --- others like them -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_others_are_of_the_same_distribution_but_no_permutation(dtype: torch.dtype) -> None:
    x = (torch.randn(200, 5) + 3).to(dtype)
    other = _others_like(x)
    assert (other.shape, other.dtype) == (x.shape, dtype)
    assert other.double().mean().item() == pytest.approx(3, abs=0.2)
    assert other.double().std().item() == pytest.approx(1, abs=0.2)
    assert not torch.equal(other.flatten().sort().values, x.flatten().sort().values)


def test_others_stay_within_what_a_loss_may_rely_on() -> None:
    assert (_others_like(torch.rand(100) + 0.1) > 0).all()
    masked = torch.tensor([[0.5, -torch.inf, 2.0]])
    assert torch.equal(torch.isinf(_others_like(masked)), torch.isinf(masked))
    codes = torch.arange(3, 53)
    drawn = _others_like(codes)
    assert set(drawn.tolist()) < set(codes.tolist())  # and no permutation


def test_others_of_equal_values_differ_from_them() -> None:
    assert (_others_like(torch.full((10,), 4.0)) != 4.0).any()


def test_nothing_finite_is_left_as_it_is() -> None:
    assert _others_like(torch.full((2,), -torch.inf)).tolist() == [-math.inf] * 2
