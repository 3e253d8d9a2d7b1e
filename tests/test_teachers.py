"""Teachers: frozen nets stay as they are wherever they are carried; ensembles average; followers follow."""

from __future__ import annotations

import copy

import pytest
import torch
from lightning.pytorch.plugins.precision import DoublePrecision, HalfPrecision, Precision
from torch import Tensor, nn
from toy_stage import Squares, Vectors, batch_of, bind, net

from kdcore.cast import Cast
from kdcore.distiller import Distiller
from kdcore.errors import RunError
from kdcore.signals import Signals
from kdcore.taps import Taps
from kdcore.teachers import Ensemble, Follower, Frozen, ema, ensemble, snapshot


def distiller(teacher: Frozen) -> Distiller:
    cast = Cast(Vectors(), {"student": net(1)}, {"teacher": teacher})
    return Distiller(
        "distil",
        cast,
        losses=[bind(Squares())],
        scores={},
        teachers=("teacher",),
        optimizer=lambda groups: torch.optim.SGD(groups, lr=0.1),
        parameter_groups=lambda: [{"params": list(cast.trained["student"].parameters())}],
    )


# --- frozen -----------------------------------------------------------------------------------------------------------


def test_a_frozen_net_does_not_learn() -> None:
    holder = Frozen(net(norm=True))
    assert not any(module.training for module in holder.module.modules())
    assert not any(parameter.requires_grad for parameter in holder.module.parameters())


def test_a_deep_copy_of_a_holder_is_the_holder() -> None:
    holder = Frozen(net())
    assert copy.deepcopy(holder) is holder
    copied = copy.deepcopy(distiller(holder))
    assert copied.cast.frozen["teacher"] is holder
    assert copied.cast.trained["student"] is copied.students["student"]


def test_the_teacher_is_outside_of_the_distillers_tree() -> None:
    holder = Frozen(net())
    owner = distiller(holder)
    assert set(owner.state_dict()) == {f"students.student.{key}" for key in net().state_dict()}
    assert not {id(p) for p in owner.parameters()} & {id(p) for p in holder.module.parameters()}


@pytest.mark.parametrize(
    ("precision", "dtype"), [(HalfPrecision("bf16-true"), torch.bfloat16), (DoublePrecision(), torch.float64)]
)
def test_lightnings_precisions_reach_the_teacher(precision: Precision, dtype: torch.dtype) -> None:
    holder = Frozen(net(norm=True))
    owner = distiller(holder)
    precision.convert_module(owner)
    kept = {name: value.dtype for name, value in holder.module.state_dict().items()}
    assert kept.pop("1.num_batches_tracked") == torch.int64
    assert set(kept.values()) == {dtype}
    assert {p.dtype for p in owner.students.parameters()} == {dtype}


def test_a_dtype_that_the_recipe_gives_is_kept_to_the_bit() -> None:
    """Going to bfloat16 and back would round every weight."""
    holder = Frozen(net(norm=True), torch.float32)
    before = {name: value.clone() for name, value in holder.module.state_dict().items()}
    distiller(holder).to(torch.bfloat16)
    after = holder.module.state_dict()
    assert all(torch.equal(after[name], value) and after[name].dtype == value.dtype for name, value in before.items())


def test_a_holder_of_a_given_dtype_is_still_moved() -> None:
    holder = Frozen(net().bfloat16(), torch.bfloat16)
    distiller(holder).to("meta")
    assert {(p.device.type, p.dtype) for p in holder.module.parameters()} == {("meta", torch.bfloat16)}


def test_training_the_student_leaves_the_teachers_batch_norm_alone() -> None:
    holder = Frozen(net(norm=True))
    before = {name: value.clone() for name, value in holder.module.state_dict().items()}
    owner = distiller(holder)
    optimizer = torch.optim.SGD(owner.parameters(), lr=0.1)
    student = {name: value.clone() for name, value in owner.students.state_dict().items()}
    for step in range(3):
        owner.train()
        batch = batch_of(seed=step)
        ((_, parts),) = owner.totals(owner.cast.run(owner._train_order, batch), batch)
        optimizer.zero_grad()
        parts["kd"].sum.backward()
        optimizer.step()
    assert not any(module.training for module in holder.module.modules())
    assert all(torch.equal(value, before[name]) for name, value in holder.module.state_dict().items())
    assert all(p.grad is None for p in holder.module.parameters())
    assert any(not torch.equal(value, student[name]) for name, value in owner.students.state_dict().items())


# --- ensemble ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("shape", "axis"), [((5, 3), -1), ((5, 4, 3), -1), ((5, 4, 3), 2), ((5, 3, 2, 2), 1)])
def test_logits_are_averaged_as_probabilities(shape: tuple[int, ...], axis: int) -> None:
    members = [{"logits": 5 * torch.randn(shape)} for _ in range(3)]
    found = ensemble(of=["a", "b", "c"]).combine(members, axis)
    expected = torch.stack([member["logits"].softmax(axis) for member in members]).mean(0)
    torch.testing.assert_close(found["logits"], expected.log())
    torch.testing.assert_close(found["logits"].softmax(axis), expected)


def test_logits_are_averaged_as_they_are_where_the_recipe_says_so() -> None:
    members = [{"logits": torch.randn(5, 3)} for _ in range(2)]
    found = ensemble(of=["a", "b"], average="logits").combine(members, -1)
    torch.testing.assert_close(found["logits"], (members[0]["logits"] + members[1]["logits"]) / 2)


def test_only_what_all_members_give_is_averaged() -> None:
    members: list[Signals] = [
        {"logits": torch.zeros(2, 3), "tap.deep": torch.tensor([1.0, 3.0]), "tap.a": torch.zeros(1)},
        {"logits": torch.zeros(2, 3), "tap.deep": torch.tensor([3.0, 9.0]), "tap.b": torch.zeros(1)},
    ]
    found = ensemble(of=["a", "b"]).combine(members, -1)
    assert found.keys() == {"logits", "tap.deep"}
    assert found["tap.deep"].tolist() == [2.0, 6.0]


def test_lengths_are_those_of_the_first_member() -> None:
    members = [{"hidden.lengths": torch.tensor([2, 3])} for _ in range(2)]
    assert ensemble(of=["a", "b"]).combine(members, -1)["hidden.lengths"].tolist() == [2, 3]


@pytest.mark.parametrize(
    ("dtypes", "expected"),
    [
        ((torch.bfloat16, torch.bfloat16), torch.float32),
        ((torch.float64, torch.float64), torch.float64),
        ((torch.float32, torch.float16), torch.float32),
    ],
)
def test_an_average_is_taken_in_float32_at_least(dtypes: tuple[torch.dtype, ...], expected: torch.dtype) -> None:
    members = [{"logits": torch.randn(2, 3).to(dtype)} for dtype in dtypes]
    found = ensemble(of=["a", "b"]).combine(members, -1)["logits"]
    assert found.dtype == expected
    exact = torch.stack([member["logits"].double().softmax(-1) for member in members]).mean(0).log()
    torch.testing.assert_close(found.double(), exact, rtol=1e-5, atol=1e-5)


def test_a_class_that_every_member_rules_out_stays_out() -> None:
    members = [{"logits": torch.tensor([[0.0, 1.0, -torch.inf]])} for _ in range(2)]
    found = ensemble(of=["a", "b"]).combine(members, -1)["logits"]
    torch.testing.assert_close(found, members[0]["logits"].log_softmax(-1))


def test_members_that_differ_in_shape_are_refused() -> None:
    members = [{"logits": torch.zeros(2, 3)}, {"logits": torch.zeros(2, 4)}]
    with pytest.raises(RunError, match=r"of one shape, and `logits` is given as \(2, 3\) by `a`, \(2, 4\) by `b`"):
        ensemble(of=["a", "b"]).combine(members, -1)


def test_factories() -> None:
    assert ensemble(of=["a", "b"]) == Ensemble(("a", "b"), "probabilities")
    assert ema(of="student") == Follower("student", 0.999)
    assert snapshot(of="student", every="epoch") == Follower("student", None)


@pytest.mark.parametrize("decay", [-0.1, 1.0, 1.5])
def test_a_decay_that_averages_nothing_is_refused(decay: float) -> None:
    with pytest.raises(ValueError, match=rf"decay={decay} is not in \[0, 1\)"):
        ema(of="student", decay=decay)


# --- followers --------------------------------------------------------------------------------------------------------


def stepped(live: nn.Module, seed: int) -> None:
    """What a training step does: other weights, other statistics."""
    with torch.no_grad():
        for parameter in live.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(seed)))
    live.train()(batch_of(8, seed)["x"])


def test_the_moving_average_is_the_one_computed_by_hand() -> None:
    live, follower = net(norm=True), ema(of="student", decay=0.75)
    follower.follow(live)
    expected = {name: p.detach().double() for name, p in live.named_parameters()}
    for seed in range(4):
        stepped(live, seed)
        follower.after_step(live)
        follower.after_epoch(live)  # nothing to a moving average
        for name, p in live.named_parameters():
            expected[name] = 0.75 * expected[name] + 0.25 * p.detach().double()
    for name, p in follower.module.named_parameters():
        torch.testing.assert_close(p.double(), expected[name], rtol=1e-6, atol=1e-6)
    theirs = dict(live.named_buffers())
    assert theirs["1.num_batches_tracked"] == 4
    assert all(torch.equal(buffer, theirs[name]) for name, buffer in follower.module.named_buffers())
    assert not follower.module[1].training
    assert not any(p.requires_grad for p in follower.module.parameters())


def test_a_snapshot_is_taken_at_the_end_of_an_epoch() -> None:
    live, follower = net(norm=True), snapshot(of="student")
    follower.follow(live)
    start = copy.deepcopy(live.state_dict())
    stepped(live, 0)
    follower.after_step(live)
    assert all(torch.equal(value, start[name]) for name, value in follower.module.state_dict().items())
    follower.after_epoch(live)
    assert all(torch.equal(value, live.state_dict()[name]) for name, value in follower.module.state_dict().items())
    end = copy.deepcopy(live.state_dict())
    stepped(live, 1)
    assert all(torch.equal(value, end[name]) for name, value in follower.module.state_dict().items())


def test_a_follower_is_another_net() -> None:
    live, follower = net(), ema(of="student")
    follower.follow(live)
    assert follower.module is not live
    assert not {id(p) for p in follower.module.parameters()} & {id(p) for p in live.parameters()}
    assert all(p.requires_grad for p in live.parameters())


def test_a_follower_of_a_tapped_and_compiled_net() -> None:
    live, x = net(), batch_of()["x"]
    taps = Taps(live, {"deep": "2"}, "student")
    live.compile(backend="eager")
    live(x)
    follower = ema(of="student", decay=0.5)
    follower.follow(live)
    torch.testing.assert_close(follower.module(x), live(x))
    stepped(live, 0)
    follower.after_step(live)
    with taps.armed():
        expected = live(x)
    found = taps.take()
    assert list(found) == ["tap.deep"]
    torch.testing.assert_close(live[3](found["tap.deep"]), expected)


def test_a_follower_that_has_nothing_to_follow_says_so() -> None:
    expected = r"follows `student`, which no stage has trained so far: use it in a stage with `train: student`"
    with pytest.raises(RunError, match=expected):
        _ = ema(of="student").module


def test_tied_weights_stay_tied_in_the_follower() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(3, 3)
            self.b = nn.Linear(3, 3)
            self.b.weight = self.a.weight

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.b(self.a(x))
            return out

    live, follower = Tied(), ema(of="student", decay=0.5)
    follower.follow(live)
    old = live.a.weight.detach().clone()
    with torch.no_grad():
        live.a.weight.add_(1.0)
    follower.after_step(live)
    assert follower.module.a.weight is follower.module.b.weight
    torch.testing.assert_close(follower.module.a.weight.detach(), old + 0.5)


def test_the_state_of_a_follower_brings_another_one_to_where_it_was() -> None:
    follower, other = ema(of="student", decay=0.5), ema(of="student", decay=0.5)
    follower.follow(net(3))
    other.follow(net(4))
    other.load_state_dict(follower.state_dict())
    assert torch.equal(other.module[0].weight, net(3)[0].weight)  # type: ignore[index,union-attr]


def test_an_average_in_half_precision_does_not_stand_still() -> None:
    live, follower = net(3).bfloat16(), ema(of="student", decay=0.999)
    follower.follow(live)
    before = live[0].weight.detach().float().clone()  # type: ignore[union-attr]
    with torch.no_grad():
        live[0].weight.add_(1.0)  # type: ignore[union-attr]
    for _ in range(500):
        follower.after_step(live)
    moved = (follower.module[0].weight.detach().float() - before).mean()  # type: ignore[index,union-attr]
    assert moved.item() == pytest.approx(1 - 0.999**500, abs=0.01)


def test_a_resumed_average_in_half_precision_is_the_uninterrupted_one() -> None:
    live, whole, broken, resumed = net(3).bfloat16(), *(ema(of="student", decay=0.999) for _ in range(3))
    for follower in (whole, broken, resumed):
        follower.follow(live)
    with torch.no_grad():
        live[0].weight.add_(1.0)  # type: ignore[union-attr]
    for _ in range(4):
        whole.after_step(live)
    for _ in range(2):
        broken.after_step(live)
    resumed.load_state_dict(copy.deepcopy(broken.state_dict()))
    for _ in range(2):
        resumed.after_step(live)
    for name, tensor in whole.state_dict()["weights"].items():
        assert torch.equal(resumed.state_dict()["weights"][name], tensor)
    for mine, theirs in zip(resumed.state_dict()["average"], whole.state_dict()["average"], strict=True):
        assert torch.equal(mine, theirs)
