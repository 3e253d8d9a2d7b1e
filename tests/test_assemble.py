"""Recipes of every shape, read, assembled and trained: each does what it says, by values."""

from __future__ import annotations

import copy
import json
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lab import Lab, batches, ce, copy_of, distance, kd, logits, weights
from lightning.pytorch.callbacks import Callback, WeightAveraging
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from kdcore.errors import RecipeError, RunError
from kdcore.losses.kl import KL
from kdcore.recipe.schema import Ref

SGD = "optimizer={use: sgd, lr: 0.5, momentum: 0, weight_decay: 0}"


def step_of(modules: list[nn.Module], value: Tensor, lr: float = 0.5) -> None:
    """One step of plain gradient descent on what learns."""
    learning = [p for module in modules for p in module.parameters() if p.requires_grad]
    found = torch.autograd.grad(value, learning, allow_unused=True)
    with torch.no_grad():
        for parameter, gradient in zip(learning, found, strict=True):
            if gradient is not None:
                parameter.sub_(lr * gradient)


class Calls:
    """How often a module is called, and with what."""

    def __init__(self, module: nn.Module) -> None:
        self.inputs: list[Tensor] = []
        module.register_forward_hook(lambda module, args, output: self.inputs.append(args[0].detach().clone()))


# ---- several models


def test_mutual_learning_each_learns_from_its_own_losses_in_one_forward_each(lab: Lab) -> None:
    built = lab.stage(
        SGD,
        "models.other={use: mlp, hidden: [5]}",
        "stages.distil.train=[student, other]",
        "stages.distil.teachers=[]",
        "stages.distil.losses={"
        "ce: {use: cross_entropy, student: student}, ce2: {use: cross_entropy, student: other, weight: 0.5}, "
        "kd: {use: kl, student: student, teacher: other}, kd2: {use: kl, student: other, teacher: student, weight: 2}}",
    )
    student, other = built.cast.trained["student"], built.cast.trained["other"]
    mine, theirs = copy_of(student), copy_of(other)
    calls = [Calls(student), Calls(other)]
    six = list(batches(built))
    lab.fit(built)
    assert [len(one.inputs) for one in calls] == [6, 6]
    for batch in six:
        ours, its = logits(mine, batch), logits(theirs, batch)
        # what teaches is detached: each objective reaches its own net only
        first = ce(ours, batch) + kd(ours, its.detach(), 1.0)
        second = 0.5 * ce(its, batch) + 2 * kd(its, ours.detach(), 1.0)
        step_of([mine], first)
        step_of([theirs], second)
    assert distance(weights(student), weights(mine)) < 1e-6
    assert distance(weights(other), weights(theirs)) < 1e-6


THREE = (
    "models.t1={use: mlp, hidden: [12]}",
    "models.t2={use: mlp, hidden: [12], seed: 1}",
    "stages.teach.train=[t1, t2]",
    "stages.teach.losses={ce: {student: t1}, b: {use: cross_entropy, student: t2}}",
)


@pytest.mark.parametrize("average", ["probabilities", "logits"])
def test_an_ensemble_teaches_with_the_average_of_its_members(lab: Lab, average: str) -> None:
    built = lab.stage(
        *THREE, SGD, f"models.both={{use: ensemble, of: [t1, t2], average: {average}}}", "stages.distil.teachers=both"
    )
    student = built.cast.trained["student"]
    mine = copy_of(student)
    members = [built.cast.frozen[name].module for name in ("t1", "t2")]
    calls = [Calls(member) for member in members]
    for batch in batches(built):
        with torch.no_grad():
            given = [logits(member, batch) for member in members]
            mean = (given[0].softmax(-1) / 2 + given[1].softmax(-1) / 2).log()
            target = mean if average == "probabilities" else (given[0] + given[1]) / 2
        ours = logits(mine, batch)
        step_of([mine], 0.1 * ce(ours, batch) + 0.9 * kd(ours, target))
    for one in calls:
        one.inputs.clear()
    lab.fit(built)
    assert distance(weights(student), weights(mine)) < 1e-6
    assert [len(one.inputs) for one in calls] == [6, 6]


def test_several_teachers_each_with_a_loss_and_a_role_bound_to_a_list(lab: Lab) -> None:
    built = lab.stage(
        *THREE,
        SGD,
        "stages.distil.teachers=[t1, t2]",
        "stages.distil.losses={first: {use: kl}, second: {use: mse, teacher: t2, weight: 0.2}, "
        "crowd: {use: local.crowd, teacher: [t1, t2], weight: 0.3}}",
    )
    student = built.cast.trained["student"]
    mine = copy_of(student)
    t1, t2 = (built.cast.frozen[name].module for name in ("t1", "t2"))
    for batch in batches(built):
        ours = logits(mine, batch)
        with torch.no_grad():
            one, two = logits(t1, batch), logits(t2, batch)
        crowd = (ours - (one + two) / 2).square().sum(-1).mean()
        step_of([mine], kd(ours, one, 1.0) + 0.2 * F.mse_loss(ours, two) + 0.3 * crowd)
    lab.fit(built)
    assert distance(weights(student), weights(mine)) < 1e-6


def test_a_loss_with_a_third_role(lab: Lab) -> None:
    built = lab.stage(
        *THREE,
        SGD,
        "stages.distil.teachers=[t1, t2]",
        "stages.distil.losses={three: {use: local.reference, reference: t2}}",
    )
    student = built.cast.trained["student"]
    mine = copy_of(student)
    t1, t2 = (built.cast.frozen[name].module for name in ("t1", "t2"))
    for batch in batches(built):
        with torch.no_grad():
            target = (2 * logits(t1, batch) + logits(t2, batch)) / 3
        step_of([mine], (logits(mine, batch) - target).square().sum(-1).mean())
    lab.fit(built)
    assert distance(weights(student), weights(mine)) < 1e-6


def test_models_that_would_stay_equal_are_refused(lab: Lab) -> None:
    with pytest.raises(RecipeError, match=r"models `t1` and `t2` start with equal weights .*\n.*models.t2.seed: 1"):
        lab.stage(*THREE, "models.t2.seed=null", "models.both={use: ensemble, of: [t1, t2]}")
    with pytest.raises(RecipeError, match="models `student` and `twin` start with equal weights"):
        lab.stage(
            "models.twin={use: mlp, hidden: [6]}",
            "stages.distil.train=[student, twin]",
            "stages.distil.losses={a: {use: kl, student: student, teacher: twin}, b: {use: kl, student: twin}}",
        )


# ---- teachers that follow


def follow(lab: Lab, built: Any, name: str, decay: float | None, epochs: int) -> dict[str, Tensor]:
    """Train by hand with a teacher that follows; its weights at the end."""
    student = built.cast.trained["student"]
    mine, teacher = copy_of(student), copy_of(built.cast.followers[name].module)
    for number, batch in enumerate(batches(built, epochs), start=1):
        mine.train()
        ours = logits(mine, batch)
        with torch.no_grad():
            theirs = logits(teacher.eval(), batch)
        step_of([mine], 0.1 * ce(ours, batch) + 0.9 * kd(ours, theirs))
        with torch.no_grad():
            if decay is not None:
                for slow, fast in zip(teacher.parameters(), mine.parameters(), strict=True):
                    slow.copy_(decay * slow + (1 - decay) * fast)
                for slow, fast in zip(teacher.buffers(), mine.buffers(), strict=True):
                    slow.copy_(fast)
            elif number % 6 == 0:
                teacher.load_state_dict(mine.state_dict())
    return weights(teacher)


FOLLOWERS = {"ema": ("{use: ema, of: student, decay: 0.7}", 0.7), "snapshot": ("{use: snapshot, of: student}", None)}


def follower_of(kind: str) -> tuple[str, ...]:
    return (
        SGD,
        "models.student={use: local.net, norm: true}",
        f"models.slow={FOLLOWERS[kind][0]}",
        "stages.distil.teachers=slow",
        "trainer.max_epochs=3",
    )


@pytest.mark.parametrize("kind", FOLLOWERS)
def test_a_teacher_that_follows_the_student(lab: Lab, kind: str) -> None:
    built = lab.stage(*follower_of(kind))
    student, slow = built.cast.trained["student"], built.cast.followers["slow"]
    assert distance(weights(slow.module), weights(student)) == 0
    expected = follow(lab, built, "slow", FOLLOWERS[kind][1], 3)
    lab.fit(built)
    assert distance(weights(slow.module), expected) < 1e-5
    assert not any(part.training for part in slow.module.modules())
    assert not any(p.requires_grad for p in slow.module.parameters())
    if kind == "ema":
        assert distance(weights(slow.module), weights(student)) > 1e-3


@pytest.mark.parametrize("kind", FOLLOWERS)
def test_a_teacher_that_follows_is_resumed_exactly(lab: Lab, kind: str) -> None:
    class Save(Callback):
        def on_train_batch_end(self, trainer: Any, *rest: Any) -> None:
            if trainer.global_step == 8:
                trainer.save_checkpoint(lab.folder / "middle.ckpt")

    whole, again = lab.stage(*follower_of(kind)), lab.stage(*follower_of(kind))
    lab.fit(whole, Save())
    lab.fit(again, resume=lab.folder / "middle.ckpt")
    for of in (lambda b: b.cast.trained["student"], lambda b: b.cast.followers["slow"].module):
        assert distance(weights(of(whole)), weights(of(again))) == 0


def test_a_follower_starts_from_the_weights_that_init_gave_the_student(lab: Lab) -> None:
    built = lab.stage(
        "models.student={use: mlp, hidden: [12], seed: 3}",
        "models.slow={use: ema, of: student}",
        "stages.distil.teachers=[slow, teacher]",
        "stages.distil.init={student: teacher}",
    )
    assert distance(weights(built.cast.followers["slow"].module), weights(built.cast.frozen["teacher"].module)) == 0


# ---- signals


NETS = ("models.teacher={use: local.net, width: 3, norm: true}", "models.student={use: local.net, width: 2}")
TAP = "taps={mid: {student: deep, teacher: deep, project: conv1x1}}"
HINT = "stages.distil.losses={ce: {use: cross_entropy}, hint: {use: mse, at: mid, weight: 0.5}}"


def test_a_tap_with_a_projector(lab: Lab) -> None:
    built = lab.stage(*NETS, TAP, HINT, SGD)
    student, teacher = built.cast.trained["student"], built.cast.frozen["teacher"].module
    projector = built.losses[1].projectors["logits"]
    mine, joint, theirs = copy_of(student), copy.deepcopy(projector), copy_of(teacher)
    for batch in batches(built):
        image = batch["image"]
        ours, target = mine.deep(torch.relu(mine.stem(image))), theirs.deep(torch.relu(theirs.stem(image))).detach()
        value = ce(logits(mine, batch), batch) + 0.5 * F.mse_loss(joint(ours), target)
        step_of([mine, joint], value)
    before = weights(projector)
    trainer = lab.fit(built)
    assert distance(weights(student), weights(mine)) < 1e-5
    assert distance(weights(projector), weights(joint)) < 1e-5
    assert distance({"w": weights(projector)["0.weight"]}, {"w": before["0.weight"]}) > 1e-4
    trainer.save_checkpoint(lab.folder / "x.ckpt")
    state = torch.load(lab.folder / "x.ckpt", weights_only=True)["state_dict"]
    assert "losses.hint.projectors.logits.0.weight" in state
    assert not any("proj" in name for name in student.state_dict())
    built.close()
    assert not student.deep._forward_hooks  # type: ignore[union-attr]


def test_a_tap_of_several_activations_makes_a_loss_of_each(lab: Lab) -> None:
    built = lab.stage(
        "models.teacher={use: convnet, width: 4, depth: 2}",
        "models.student={use: convnet, width: 2, depth: 2}",
        "taps={mid: {student: blocks.(0..1), teacher: blocks.(0..1), project: conv1x1}}",
        "stages.distil.losses={kd: {use: mse, at: mid}}",
    )
    assert [loss.name for loss in built.losses] == ["kd@0", "kd@1"]
    assert [loss.projectors["logits"][0].weight.shape[:2] for loss in built.losses] == [
        (8, 4),
        (16, 8),
    ]
    assert len({id(loss.loss) for loss in built.losses}) == 2
    before = [weights(loss.projectors) for loss in built.losses]
    lab.fit(built)
    assert {"distil/train/kd@0", "distil/train/kd@1"} <= lab.memo.names
    for loss, was in zip(built.losses, before, strict=True):
        assert distance(weights(loss.projectors), was) > 1e-5


@pytest.mark.parametrize(("paths", "factors"), [("blocks.(0..1)", (1, 2)), ("blocks.0", (1,))])
def test_a_joint_loss_reads_all_activations_of_a_tap(lab: Lab, paths: str, factors: tuple[int, ...]) -> None:
    built = lab.stage(
        "models.teacher={use: convnet, width: 4, depth: 2, norm: none}",
        "models.student={use: convnet, width: 2, depth: 2, norm: none}",
        f"taps={{mid: {{student: {paths}, teacher: {paths}, project: conv1x1}}}}",
        "stages.distil.losses={kd: {use: local.pyramid, at: mid}}",
    )
    (loss,) = built.losses
    assert [read.name for read in loss.reads if read.role == "student"] == [f"feature@{i}" for i in range(len(factors))]
    assert len(loss.projectors) == len(factors)
    loss.projectors.eval()
    batch = next(batches(built))
    signals = built.cast.run(built.cast.order(loss.refs), batch)
    ours, theirs = (signals[ref] for ref in (Ref("student"), Ref("teacher")))
    names = sorted(name for name in ours if name.startswith("tap."))
    expected = sum(
        factor * (loss.projectors[f"feature@{i}"](ours[name]) - theirs[name]).square().mean()
        for i, (factor, name) in enumerate(zip(factors, names, strict=True))
    )
    (total,) = loss(signals, batch).values()
    torch.testing.assert_close(total.sum, expected)


def test_transforms_and_views_of_the_recipe_reach_the_models(lab: Lab) -> None:
    built = lab.stage(
        "data.transform={base: {use: local.shift}}",
        "data.views={weak: {}, strong: {more: {use: local.shift, by: 9}}}",
        "stages.distil.losses={kd: {use: kl, student: student@strong, teacher: teacher@weak}}",
    )
    teacher, student = built.cast.frozen["teacher"].module, built.cast.trained["student"]
    seen = Calls(teacher), Calls(student)
    first, *_ = list(batches(built))
    lab.fit(built)
    assert torch.equal(seen[0].inputs[0], first["image"])
    added = seen[1].inputs[0] - first["image"]
    assert bool((added >= 0).all())
    assert added.max().item() > 2
    assert first["seed"].shape == (16,)


def test_a_live_loss_reaches_the_members_of_an_ensemble(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(KL, "live", True)
    built = lab.stage(
        "models.second={use: mlp, hidden: [5]}",
        "models.both={use: ensemble, of: [teacher, second]}",
        "stages.also={train: second, losses: {ce: {use: cross_entropy}}}",
        "stages.late={train: student, teachers: [both]}",
        name="late",
    )
    assert built.cast.live >= {"teacher", "second"}


def test_data_of_unknown_length_needs_max_steps(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pl.Trainer, "estimated_stepping_batches", float("inf"))
    with pytest.raises(RunError, match=r"does not say how many batches it has, .*: set `trainer.max_steps`"):
        lab.fit(lab.stage())


@pytest.mark.parametrize(
    ("student", "teacher", "found"),
    [
        ("blocks.(0..1)", "blocks.(0..2)", "2 of `student`, 3 of `teacher`"),
        ("blocks.(0..2)", "blocks.(0..1)", "3 of `student`, 2 of `teacher`"),
        ("blocks.(0..2)", "blocks.0", "3 of `student`, 1 of `teacher`"),
    ],
)
def test_taps_of_different_numbers_of_activations_are_refused(lab: Lab, student: str, teacher: str, found: str) -> None:
    with pytest.raises(RecipeError, match=f"stages.distil.losses.kd: the tap `mid` gives {found}: which belong"):
        lab.stage(
            "models.teacher={use: convnet, width: 2, depth: 3}",
            "models.student={use: convnet, width: 2, depth: 3, seed: 1}",
            f"taps={{mid: {{student: {student}, teacher: {teacher}}}}}",
            "stages.distil.losses={kd: {use: mse, at: mid}}",
        )


@pytest.mark.parametrize("side", ["student", "teacher"])
def test_resize_joins_maps_of_different_sizes(lab: Lab, side: str) -> None:
    built = lab.stage(
        "models.teacher={use: local.net, width: 2, stride: 2}",
        "models.student={use: local.net, width: 2}",
        "taps={mid: {student: deep, teacher: deep}}",
        f"stages.distil.losses={{hint: {{use: mse, at: mid, resize: {side}}}}}",
        SGD,
    )
    student, teacher = built.cast.trained["student"], built.cast.frozen["teacher"].module
    mine, theirs = copy_of(student), copy_of(teacher)
    for batch in batches(built):
        image = batch["image"]
        ours, target = mine.deep(torch.relu(mine.stem(image))), theirs.deep(torch.relu(theirs.stem(image))).detach()
        size = {"size": (2, 2) if side == "student" else (4, 4), "mode": "bilinear", "align_corners": False}
        if side == "student":
            ours = F.interpolate(ours, **size)
        else:
            target = F.interpolate(target, **size)
        step_of([mine], F.mse_loss(ours, target))
    lab.fit(built)
    assert distance(weights(student), weights(mine)) < 1e-6


def test_self_distillation_reads_a_place_of_the_student_as_its_teacher(lab: Lab) -> None:
    built = lab.stage(
        "models.student={use: local.net, width: 2}",
        "taps={early: {student: stem}, late: {student: 'deep:in'}}",
        "stages.distil.losses={ce: {use: cross_entropy}, self: {use: mse, weight: 0.5, read: "
        "{student.logits: student.tap.early, teacher.logits: student.tap.late}}}",
        SGD,
    )
    student = built.cast.trained["student"]
    mine = copy_of(student)
    for batch in batches(built):
        early = mine.stem(batch["image"])
        late = torch.relu(early).detach()
        step_of([mine], ce(logits(mine, batch), batch) + 0.5 * F.mse_loss(early, late))
    lab.fit(built)
    assert distance(weights(student), weights(mine)) < 1e-6


def test_what_a_loss_did_to_a_model_ends_with_the_stage(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    hooks: list[Any] = []
    monkeypatch.setattr(
        KL, "setup", lambda self, example, facts, models: hooks.append(models("teacher").register_forward_hook(print))
    )
    monkeypatch.setattr(KL, "close", lambda self: hooks.pop().remove())
    built = lab.stage()
    teacher = built.cast.module("teacher")
    assert [*teacher._forward_hooks.values()] == [print]
    built.close()
    assert (hooks, len(teacher._forward_hooks)) == ([], 0)


def test_signal_names_a_tap_as_at_does(lab: Lab) -> None:
    nets = []
    for key in ("at: mid", "signal: tap.mid"):
        built = lab.stage(
            *NETS[:1],
            "models.student={use: local.net, width: 3}",
            "taps={mid: {student: deep, teacher: deep}}",
            f"stages.distil.losses={{hint: {{use: mse, {key}}}}}",
        )
        lab.fit(built)
        nets.append(weights(built.cast.trained["student"]))
    assert distance(*nets) == 0


def test_views_each_model_sees_its_own(lab: Lab) -> None:
    built = lab.stage(
        "data.own_views=true",
        "stages.distil.losses="
        "{kd: {use: kl, teacher: teacher@weak, student: student@strong}, ce: {use: cross_entropy}}",
        SGD,
    )
    student, teacher = built.cast.trained["student"], built.cast.frozen["teacher"].module
    mine = copy_of(student)
    ours, theirs = Calls(student), Calls(teacher)
    for batch in batches(built):
        turned = logits(mine, {**batch, **batch["views"]["strong"]})
        with torch.no_grad():
            target = copy_of(teacher)(batch["image"] + 0.1)
        step_of([mine], kd(turned, target, 1.0) + ce(logits(mine, batch), batch))
    lab.fit(built)
    assert distance(weights(student), weights(mine)) < 1e-6
    assert len(theirs.inputs) == 6
    assert len(ours.inputs) == 12  # as it is, and turned


def test_a_view_that_the_data_does_not_give_is_named(lab: Lab) -> None:
    built = lab.stage("data.own_views=true", "losses.kd.teacher=teacher@weka")
    with pytest.raises(RunError, match=r"model `teacher` is to see the view `weka`: .*\(views: strong, weak\)"):
        lab.fit(built)


def test_prepare_components_run_in_order_and_reach_the_models(lab: Lab) -> None:
    built = lab.stage(
        "prepare={one: {use: local.brighter, by: 0.5}, "
        "two: {use: local.brighter, by: 0.25, factor: 2.0, model: teacher}}",
        SGD,
    )
    student, teacher = built.cast.trained["student"], built.cast.frozen["teacher"].module
    mine = copy_of(student)
    for batch in batches(built):
        seen = {**batch, "image": (batch["image"] + 0.5) * 2 + 0.25}
        ours = logits(mine, seen)
        with torch.no_grad():
            target = logits(teacher, seen)
        step_of([mine], 0.1 * ce(ours, seen) + 0.9 * kd(ours, target))
    lab.fit(built)
    assert distance(weights(student), weights(mine)) < 1e-6
    assert [component.reached for component in built.distiller.prepare] == [student, teacher]


# ---- where a model starts, and what stays as it is


def test_init_takes_all_the_weights_of_another_model(lab: Lab) -> None:
    built = lab.stage("models.student={use: mlp, hidden: [12], seed: 5}", "stages.distil.init={student: teacher}")
    assert distance(weights(built.cast.trained["student"]), weights(built.cast.frozen["teacher"].module)) == 0


def test_init_maps_parts_and_leaves_the_rest(lab: Lab) -> None:
    overrides = ("models.teacher={use: mlp, hidden: [6, 6, 6]}", "models.student={use: mlp, hidden: [6, 6], seed: 5}")
    fresh = weights(lab.stage(*overrides).cast.trained["student"])
    built = lab.stage(
        *overrides,
        "stages.distil.init={student: {from: teacher, map: {hidden.1: hidden.2, head.weight: head.weight}}}",
    )
    student, teacher = weights(built.cast.trained["student"]), weights(built.cast.frozen["teacher"].module)
    for name, value in student.items():
        source = {"hidden.1.linear.weight": "hidden.2.linear.weight", "hidden.1.linear.bias": "hidden.2.linear.bias"}
        if name in source or name == "head.weight":
            assert torch.equal(value, teacher[source.get(name, name)])
        else:
            assert torch.equal(value, fresh[name])


@pytest.mark.parametrize(
    ("mapping", "wrong"),
    [
        ("{hidden.1: hidden.9}", "model `teacher` has no weights at `hidden.9`\n    did you mean `hidden.[01]`"),
        ("{hiden.0: hidden.0}", "model `student` has no weights at `hiden.0`\n    did you mean `hidden.0`"),
        ("{head: head, hid: hidden.0}", "stages.distil.init.student.map: model `student` has no weights at `hid`"),
    ],
)
def test_a_pair_of_an_init_that_maps_nothing_is_refused(lab: Lab, mapping: str, wrong: str) -> None:
    with pytest.raises(RecipeError, match=wrong):
        lab.stage(
            "models.teacher={use: mlp, hidden: [6, 6]}",
            "models.student={use: mlp, hidden: [6, 6], seed: 5}",
            f"stages.distil.init={{student: {{from: teacher, map: {mapping}}}}}",
        )


def test_what_is_frozen_stays_and_the_rest_learns(lab: Lab) -> None:
    built = lab.stage(
        "models.student={use: local.net, norm: true}", "stages.distil.freeze={student: [stem, head.bias]}"
    )
    student = built.cast.trained["student"]
    before = weights(student)
    lab.fit(built, limit_val_batches=1.0)
    after = weights(student)
    same = {name for name in before if torch.equal(before[name], after[name])}
    assert same == {name for name in before if name.startswith("stem") or name == "head.bias"}
    assert student.training  # Lightning puts the modes back after validation
    assert not student.stem[1].training  # type: ignore[index, union-attr]


def test_batch_statistics_of_what_is_not_frozen_are_learnt(lab: Lab) -> None:
    built = lab.stage("models.student={use: local.net, norm: true}")
    student = built.cast.trained["student"]
    before = weights(student)
    lab.fit(built)
    assert int(student.stem[1].num_batches_tracked) == 6  # type: ignore[index, union-attr, arg-type]
    assert not torch.equal(weights(student)["stem.1.running_mean"], before["stem.1.running_mean"])


def test_freeze_that_matches_nothing_is_refused(lab: Lab) -> None:
    with pytest.raises(RecipeError, match="freeze: `hiden` matches nothing in model `student`"):
        lab.stage("stages.distil.freeze={student: [hiden]}")


def test_a_model_learns_again_after_it_was_a_teacher_or_frozen(lab: Lab) -> None:
    from kdcore.assemble import assemble

    builder = lab.builder(
        "models.teacher={use: local.net, norm: true}",
        "stages.back={train: teacher, teachers: [student]}",
        "stages.part={train: student, freeze: {student: [hidden]}, losses: {ce: {use: cross_entropy}}}",
        "stages.all={train: student, losses: {ce: {use: cross_entropy}}}",
    )
    for name in ("distil", "back", "part", "all"):
        built = assemble(builder, builder.recipe.stages[name])
        before = {model: weights(module) for model, module in built.cast.trained.items()}
        fixed = {model: weights(holder.module) for model, holder in built.cast.frozen.items()}
        lab.fit(built)
        built.close()
        for model, was in before.items():
            changed = {
                key for key, value in weights(built.cast.trained[model]).items() if not torch.equal(value, was[key])
            }
            expected = {key for key in was if name != "part" or not key.startswith("hidden")}
            assert changed == expected, (name, model)
        for model, was in fixed.items():
            assert distance(weights(built.cast.frozen[model].module), was) == 0


def test_a_loss_may_not_bear_the_name_of_a_trained_model(lab: Lab) -> None:
    with pytest.raises(RecipeError, match="the loss `student` bears the name of a model that stage `distil` trains"):
        lab.stage("stages.distil.losses={student: {use: kl}}")


# ---- what a checkpoint and a copy hold


def test_a_checkpoint_holds_no_teacher(lab: Lab) -> None:
    built = lab.stage()
    names = {name.split(".")[0] for name in built.distiller.state_dict()}
    assert names == {"students"}
    assert {p.data_ptr() for p in built.distiller.parameters()} == {
        p.data_ptr() for p in built.cast.trained["student"].parameters()
    }
    trainer = lab.fit(built)
    trainer.save_checkpoint(lab.folder / "x.ckpt")
    saved = torch.load(lab.folder / "x.ckpt", weights_only=True)
    shapes = {tuple(p.shape) for p in built.cast.frozen["teacher"].module.parameters() if p.ndim == 2}

    def tensors(value: Any) -> list[Tensor]:
        if isinstance(value, Tensor):
            return [value]
        children = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
        return [tensor for child in children for tensor in tensors(child)]

    assert not shapes & {tuple(tensor.shape) for tensor in tensors(saved)}


def test_a_deep_copy_shares_the_teacher_and_copies_the_student(lab: Lab) -> None:
    built = lab.stage()
    twin = copy.deepcopy(built.distiller)
    assert twin.cast.frozen["teacher"].module is built.cast.frozen["teacher"].module
    assert twin.cast.trained["student"] is not built.cast.trained["student"]
    assert twin.cast.trained["student"] is twin.students["student"]


@pytest.mark.parametrize("norm", ["true", "false"])
def test_lightnings_weight_averaging_averages_the_student(lab: Lab, norm: str) -> None:
    overrides = (f"models.student={{use: local.net, norm: {norm}}}", "trainer.max_epochs=2")
    plain, built = lab.stage(*overrides), lab.stage(*overrides)
    history: list[dict[str, Tensor]] = []

    class Watch(Callback):
        def on_train_batch_end(self, trainer: Any, module: Any, *rest: Any) -> None:
            history.append(weights(module.students["student"]))

    lab.fit(plain, Watch())
    lab.fit(built, WeightAveraging(), limit_val_batches=1.0, checkpoints=True, log_every_n_steps=5)
    found = weights(built.cast.trained["student"])
    for name, value in found.items():
        if value.is_floating_point():
            mean = torch.stack([step[name] for step in history]).mean(0)
            assert torch.allclose(value, mean, atol=1e-6), name
    best = torch.load(lab.folder / "distil" / "best.ckpt", weights_only=True)["state_dict"]
    assert {name.removeprefix("students.student.") for name in best} == found.keys()


# ---- precision, dtype, compile


@pytest.mark.parametrize(
    ("precision", "signal", "weight"),
    [
        ("bf16-mixed", torch.bfloat16, torch.float32),
        ("bf16-true", torch.bfloat16, torch.bfloat16),
        ("64-true", torch.float64, torch.float64),
        ("32-true", torch.float32, torch.float32),
    ],
)
def test_precision(lab: Lab, precision: str, signal: torch.dtype, weight: torch.dtype) -> None:
    built = lab.stage(
        "losses.w={use: local.witness}",
        f"trainer.precision={precision}",
        "models.student={use: local.net}",
        "models.teacher={use: local.net, width: 3, norm: true}",
        TAP,
        "losses.hint={use: mse, at: mid}",
    )
    witness: Any = next(loss.loss for loss in built.losses if loss.name == "w")
    witness.seen.clear()
    student = built.cast.trained["student"]
    before = weights(student)
    lab.fit(built, limit_val_batches=1.0, log_every_n_steps=3)
    assert {found[:3] for found in witness.seen} == {(signal, signal, False)}
    assert {p.dtype for p in student.parameters()} == {weight}
    assert {p.dtype for p in built.cast.frozen["teacher"].module.parameters()} == {weight}
    assert distance(weights(student), before) > 1e-3
    for name in ("ce", "kd", "w", "hint"):
        assert all(0 < value < 1e3 for value in lab.memo.values(f"distil/train/{name}"))


def test_running_means_are_exact_where_the_nets_are_bfloat16(lab: Lab) -> None:
    fine, coarse = (lab.stage("trainer.precision=bf16-true", "data.n=1600") for _ in range(2))
    lab.fit(fine)
    each = lab.memo.values("distil/train/ce")
    lab.memo.rows.clear()
    lab.fit(coarse, log_every_n_steps=100)
    assert lab.memo.values("distil/train/ce") == [pytest.approx(sum(each) / 100, rel=1e-5)]


@pytest.mark.parametrize("precision", ["32-true", "64-true", "bf16-mixed"])
def test_a_teacher_keeps_the_type_its_slot_gives(lab: Lab, precision: str) -> None:
    built = lab.stage(
        "models.teacher.dtype=bfloat16", f"trainer.precision={precision}", "losses.w={use: local.witness}"
    )
    witness: Any = next(loss.loss for loss in built.losses if loss.name == "w")
    witness.seen.clear()
    teacher = built.cast.frozen["teacher"].module
    before = weights(teacher)
    lab.fit(built)
    assert {found[1] for found in witness.seen} == {torch.bfloat16}
    assert {p.dtype for p in teacher.parameters()} == {torch.bfloat16}
    assert distance(weights(teacher), before) == 0


@pytest.mark.slow
def test_compiled_nets_train_as_plain_ones_do(lab: Lab) -> None:
    def train(compile_: str) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        built = lab.stage(
            *NETS, TAP, HINT, SGD, f"models.student.compile={compile_}", f"models.teacher.compile={compile_}"
        )
        lab.fit(built, limit_val_batches=1.0)
        return weights(built.cast.trained["student"]), weights(built.losses[1].projectors)

    plain, compiled = train("false"), train("true")
    assert distance(plain[0], compiled[0]) < 1e-5
    assert distance(plain[1], compiled[1]) < 1e-5


def test_each_model_has_its_own_mean_and_std(lab: Lab) -> None:
    built = lab.stage("models.teacher.mean=[0.5]", "models.teacher.std=[0.25]", "models.student.mean=[0.1]", SGD)
    student, teacher = Calls(built.cast.trained["student"]), Calls(built.cast.frozen["teacher"].module)
    first = next(batches(built))["image"]
    lab.fit(built, max_steps=1)
    assert torch.allclose(student.inputs[0], first - 0.1)
    assert torch.allclose(teacher.inputs[0], (first - 0.5) / 0.25)


KNOWING = """
from kdcore.hookspecs import hookimpl
from kdcore.models.mlp import MLP
from kdcore.task import set_input_statistics


def knowing(*, classes: int, features: int):
    net = MLP(classes=classes, features=features)
    set_input_statistics(net, [0.4], [0.2])
    return net


@hookimpl
def kdcore_register(add):
    add("model", "knowing", knowing)
"""


@pytest.mark.parametrize(
    ("slot", "mean", "std"),
    [("{}", 0.4, 0.2), ("{mean: [0.3]}", 0.3, 0.2), ("{std: [0.5]}", 0.4, 0.5), ("{dtype: bfloat16}", 0.4, 0.2)],
)
def test_a_net_may_know_its_own_mean_and_std(lab: Lab, slot: str, mean: float, std: float) -> None:
    file = lab.folder / "knowing.py"
    file.write_text(KNOWING)
    lab.plugins.load_file(file)
    teacher = lab.stage("models.teacher={use: local.knowing}", f"models.teacher={slot}").cast.module("teacher")
    assert float(teacher.input_mean) == pytest.approx(mean, rel=1e-6)  # type: ignore[arg-type]
    assert float(teacher.input_std) == pytest.approx(std, rel=1e-6)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("names", "refused"), [(list("0123456789"), False), (list("1023456789"), True), (["a"], True), (None, False)]
)
def test_a_teacher_whose_classes_have_another_order_is_refused(
    lab: Lab, names: list[str] | None, refused: bool
) -> None:
    digits = ("data={use: digits}", "models.teacher={use: mlp, hidden: [4]}", "~stages.teach")
    builder = lab.builder("data={use: digits}", "models.teacher={use: mlp, hidden: [4]}")
    facts = builder.data(builder.recipe.data).facts
    save_file(builder.net("teacher", facts).state_dict(), lab.folder / "big.safetensors")
    card = {} if names is None else {"class_names": names}
    (lab.folder / "big.json").write_text(json.dumps(card))
    words = (*digits, f"models.teacher.weights={lab.folder / 'big.safetensors'}")
    if not refused:
        lab.stage(*words)
        return
    with pytest.raises(RecipeError) as found:
        lab.stage(*words)
    assert str(found.value) == (
        f"models.teacher.weights: the weights of teacher `teacher` know the classes {', '.join(names or [])} in this "
        f"order, the data has {', '.join('0123456789')}\n    give the data the teacher's order, or take weights that "
        "were trained with this one"
    )


@pytest.mark.parametrize("partial", [False, True])
def test_a_checkpoint_that_names_its_classes_is_compared_too(lab: Lab, partial: bool) -> None:
    words = ("data={use: digits}", "models.teacher={use: mlp, hidden: [4]}", "~stages.teach")
    builder = lab.builder("data={use: digits}", "models.teacher={use: mlp, hidden: [4]}")
    net = builder.net("teacher", builder.data(builder.recipe.data).facts)
    numbers = {name: number for number, name in enumerate("1023456789")}
    torch.save({"state_dict": net.state_dict(), "class_to_idx": numbers}, lab.folder / "big.pth")
    words = (*words, f"models.teacher.weights={lab.folder / 'big.pth'}")
    if partial:  # its head starts afresh, so what it knew no longer counts
        lab.stage(*words, "models.teacher.partial=[head.*]")
        return
    with pytest.raises(RecipeError, match=r"know the classes 1, 0, 2, 3, 4, 5, 6, 7, 8, 9 in this order"):
        lab.stage(*words)


def test_a_file_beside_the_weights_that_is_no_card_says_nothing(lab: Lab) -> None:
    builder = lab.builder("data={use: digits}", "models.teacher={use: mlp, hidden: [4]}")
    net = builder.net("teacher", builder.data(builder.recipe.data).facts)
    save_file(net.state_dict(), lab.folder / "b.safetensors")
    (lab.folder / "b.json").write_text("[1, 2")
    lab.stage(
        "data={use: digits}",
        f"models.teacher={{use: mlp, hidden: [4], weights: {lab.folder / 'b.safetensors'}}}",
        "~stages.teach",
    )


def test_mean_and_std_are_not_rounded_to_a_teachers_type(lab: Lab) -> None:
    built = lab.stage("models.teacher.mean=[0.1307]", "models.teacher.std=[0.3081]", "models.teacher.dtype=bfloat16")
    teacher = built.cast.frozen["teacher"].module
    assert float(teacher.input_mean) == pytest.approx(0.1307, rel=1e-6)  # type: ignore[arg-type]
    assert float(teacher.input_std) == pytest.approx(0.3081, rel=1e-6)  # type: ignore[arg-type]


def test_masks_accumulation_and_a_short_last_window_are_exact(lab: Lab) -> None:
    built = lab.stage("data={masked: true, n: 104}", "trainer.accumulate_grad_batches=3", SGD)
    student, teacher = built.cast.trained["student"], built.cast.frozen["teacher"].module
    mine, seen = copy_of(student), list(batches(built))
    for window in (seen[:3], seen[3:6], seen[6:]):
        image, labels, mask = (torch.cat([batch[key] for batch in window]) for key in ("image", "labels", "mask"))
        ours = mine(image[mask])
        with torch.no_grad():
            theirs = teacher(image[mask])
        step_of([mine], 0.1 * F.cross_entropy(ours, labels[mask]) + 0.9 * kd(ours, theirs))
    lab.fit(built)
    assert distance(weights(student), weights(mine)) < 1e-6


def test_weights_of_a_file_with_a_prefix(lab: Lab) -> None:
    source = weights(lab.stage("models.teacher.seed=9").cast.frozen["teacher"].module)
    save_file({f"module.{name}": value for name, value in source.items()}, lab.folder / "t.safetensors")
    built = lab.stage(f"models.teacher.weights=file://{lab.folder}/t.safetensors")
    assert distance(weights(built.cast.frozen["teacher"].module), source) == 0
    assert any("stripped `module.`" in line for line in lab.said)
