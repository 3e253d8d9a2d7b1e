from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lab import Lab, batches, ce, copy_of, distance, kd, logits, weights
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from kdcore.distiller import _over_ranks
from kdcore.errors import RunError
from kdcore.rng import get_state, set_state

Objective = Callable[[Tensor, Tensor, dict[str, Any], float], Tensor]


def by_hand(
    student: nn.Module,
    teacher: nn.Module,
    seen: list[dict[str, Any]],
    optimizer: torch.optim.Optimizer,
    objective: Objective | None = None,
    rate: Callable[[float], float] = lambda progress: 1.0,
) -> None:
    """The loop as a person would write it; the objective and the rate get the progress in [0, 1)."""
    bases = [group["lr"] for group in optimizer.param_groups]
    student.train()
    for step, batch in enumerate(seen):
        progress = step / len(seen)
        for group, base in zip(optimizer.param_groups, bases, strict=True):
            group["lr"] = base * rate(progress)
        ours = logits(student, batch)
        with torch.no_grad():
            theirs = logits(teacher, batch)
        if objective is None:
            value = 0.1 * ce(ours, batch) + 0.9 * kd(ours, theirs)
        else:
            value = objective(ours, theirs, batch, progress)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()


def split_groups(model: nn.Module, decay: float) -> list[dict[str, Any]]:
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim <= 1]
    return [{"params": matrices, "weight_decay": decay}, {"params": vectors, "weight_decay": 0.0}]


OPTIMIZERS: dict[str, tuple[str, Callable[[nn.Module], torch.optim.Optimizer]]] = {
    "sgd": (
        "{use: sgd, lr: 0.5, momentum: 0.9, weight_decay: 0.2}",
        lambda model: torch.optim.SGD(split_groups(model, 0.2), lr=0.5, momentum=0.9, fused=False),
    ),
    "adamw": (
        "{use: adamw, lr: 0.02, weight_decay: 0.5}",
        lambda model: torch.optim.AdamW(split_groups(model, 0.5), lr=0.02, fused=False),
    ),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("steps", [1, 6])
def test_the_step_is_the_one_a_person_would_write(lab: Lab, name: str, steps: int) -> None:
    recipe, make = OPTIMIZERS[name]
    built = lab.stage(f"optimizer={recipe}", f"trainer.max_steps={steps}")
    student, teacher = built.cast.trained["student"], built.cast.frozen["teacher"].module
    mine, before = copy_of(student), weights(student)
    by_hand(mine, teacher, list(batches(built))[:steps], make(mine))
    lab.fit(built)
    assert distance(weights(student), weights(mine)) < 1e-6
    assert distance(weights(student), before) > 1e-3


def test_biases_are_not_decayed(lab: Lab) -> None:
    built = lab.stage(
        "optimizer={use: adamw, lr: 0.1, weight_decay: 0.5}", "models.student={use: local.net, norm: true}"
    )
    groups = built.distiller._parameter_groups()
    without = {id(p) for group in groups if group.get("weight_decay") == 0.0 for p in group["params"]}
    student = built.cast.trained["student"]
    names = {name for name, p in student.named_parameters() if id(p) in without}
    assert names == {"stem.1.weight", "stem.1.bias", "deep.bias", "head.bias"}


def test_a_group_changes_the_rate_of_what_it_names_only(lab: Lab) -> None:
    override = "optimizer={use: sgd, lr: 0.5, momentum: 0, weight_decay: 0, groups: {student.head.*: {lr: 0.0}}}"
    built = lab.stage(override)
    student = built.cast.trained["student"]
    mine, head = copy_of(student), weights(student.head)  # type: ignore[arg-type]
    body = [p for name, p in mine.named_parameters() if not name.startswith("head")]
    by_hand(mine, built.cast.frozen["teacher"].module, list(batches(built)), torch.optim.SGD(body, lr=0.5))
    lab.fit(built)
    assert distance(weights(student.head), head) == 0  # type: ignore[arg-type]
    assert distance(weights(student), weights(mine)) < 1e-6


def test_the_schedule_multiplies_the_rate(lab: Lab) -> None:
    schedule = "{use: linear, start: 1.0, end: 0.0, until: 0.5}"
    built = lab.stage(f"optimizer={{use: sgd, lr: 0.5, momentum: 0, weight_decay: 0, schedule: {schedule}}}")
    student = built.cast.trained["student"]
    mine = copy_of(student)
    optimizer = torch.optim.SGD(mine.parameters(), lr=0.5)
    teacher = built.cast.frozen["teacher"].module
    by_hand(mine, teacher, list(batches(built)), optimizer, rate=lambda p: max(0.0, 1 - 2 * p))
    lab.fit(built)
    assert distance(weights(student), weights(mine)) < 1e-6


# ---- schedules


def test_a_weight_and_a_temperature_follow_their_schedules(lab: Lab) -> None:
    built = lab.stage(
        "losses.kd.weight={use: linear, start: 0.0, end: 2.0, until: 0.5}",
        "losses.kd.temperature={use: linear, start: 1.0, end: 4.0}",
        "optimizer={use: sgd, lr: 0.5, momentum: 0, weight_decay: 0}",
    )
    student, teacher = built.cast.trained["student"], built.cast.frozen["teacher"].module
    mine, six = copy_of(student), list(batches(built))

    def objective(ours: Tensor, theirs: Tensor, batch: dict[str, Any], progress: float) -> Tensor:
        weight, temperature = 2.0 * min(1.0, progress / 0.5), 1.0 + 3.0 * progress
        return 0.1 * ce(ours, batch) + weight * kd(ours, theirs, temperature)

    by_hand(mine, teacher, six, torch.optim.SGD(mine.parameters(), lr=0.5), objective)
    lab.fit(built)
    assert distance(weights(student), weights(mine)) < 1e-6


@pytest.mark.parametrize("loss", ["witness", "secretive"])
def test_progress_is_the_share_of_optimizer_steps(lab: Lab, loss: str) -> None:
    built = lab.stage(
        f"stages.distil.losses={{w: {{use: local.{loss}, scale: {{use: linear, start: 0.0, end: 1.0}}}}}}",
        "trainer.max_epochs=2",
    )
    witness: Any = built.losses[0].loss
    witness.seen.clear()
    lab.fit(built, accumulate_grad_batches=3)
    assert [scale for *_, scale in witness.seen] == pytest.approx([step / 4 for step in range(4) for _ in range(3)])


def test_a_schedule_reads_the_running_losses(lab: Lab) -> None:
    built = lab.stage(
        "losses.kd.weight={use: local.balance, loss: kd, other: ce}",
        "optimizer={use: sgd, lr: 0.5, momentum: 0, weight_decay: 0}",
    )
    student, teacher = built.cast.trained["student"], built.cast.frozen["teacher"].module
    mine, seen = copy_of(student), []

    def objective(ours: Tensor, theirs: Tensor, batch: dict[str, Any], progress: float) -> Tensor:
        mean = [sum(column) / len(seen) for column in zip(*seen, strict=True)] if seen else None
        weight = 1.0 if mean is None else mean[1] / max(mean[0], 1e-3)
        values = ce(ours, batch), kd(ours, theirs)
        seen.append([float(value) for value in values])
        return 0.1 * values[0] + weight * values[1]

    by_hand(mine, teacher, list(batches(built)), torch.optim.SGD(mine.parameters(), lr=0.5), objective)
    lab.fit(built, log_every_n_steps=50)
    assert distance(weights(student), weights(mine)) < 1e-6


def test_a_schedule_with_a_state_goes_into_the_checkpoint(lab: Lab) -> None:
    built = lab.stage(
        "stages.distil.losses={w: {use: local.witness, weight: {use: local.memory}, scale: {use: local.memory}}}",
        "trainer.max_steps=2",
    )
    witness: Any = built.losses[0].loss
    witness.seen.clear()
    lab.fit(built)
    assert [float(scale) for *_, scale in witness.seen] == [0.5, 0.125]  # read twice a step
    state = built.distiller.state_dict()
    assert float(state["losses.w.weight.value"]) == 0.25
    assert float(state["losses.w.loss.scale.value"]) == 0.0625


def test_a_schedule_that_is_a_module_alone_makes_progress_known(lab: Lab) -> None:
    built = lab.stage("stages.distil.losses={w: {use: local.witness, scale: {use: local.memory}}}")
    assert built.distiller._scheduled
    assert not lab.stage().distiller._scheduled


class SaveAt(Callback):
    """A checkpoint after one step."""

    def __init__(self, step: int, path: Path) -> None:
        self.step, self.path = step, path

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, index: int) -> None:
        if trainer.global_step == self.step:
            trainer.save_checkpoint(self.path)


def test_what_a_schedule_reads_goes_on_exactly_after_a_resume(lab: Lab) -> None:
    overrides = ("losses.kd.weight={use: local.balance, loss: kd, other: ce}", "trainer.max_epochs=2")
    whole, path = lab.stage(*overrides), lab.folder / "middle.ckpt"
    lab.fit(whole, SaveAt(4, path), log_every_n_steps=50)
    logged = lab.memo.rows[-1]
    again = lab.stage(*overrides)
    lab.fit(again, resume=path, log_every_n_steps=50)
    one, other = (built.cast.trained["student"] for built in (whole, again))
    assert distance(weights(one), weights(other)) == 0
    assert lab.memo.rows[-1] == logged


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_gradients_are_clipped(lab: Lab, precision: str) -> None:
    built = lab.stage(
        "optimizer={use: sgd, lr: 1.0, momentum: 0, weight_decay: 0}",
        "trainer.max_steps=1",
        "trainer.gradient_clip_val=0.01",
        f"trainer.precision={precision}",
    )
    student = built.cast.trained["student"]
    before = weights(student)
    lab.fit(built)
    moved = torch.cat([(value - before[name]).flatten() for name, value in weights(student).items()])
    assert float(moved.norm()) == pytest.approx(0.01, rel=1e-3)


# ---- several updates of a batch


def test_an_optimizer_may_ask_for_the_gradient_again(lab: Lab) -> None:
    built = lab.stage("optimizer={use: local.twice, lr: 0.5}", "trainer.max_steps=3")
    student, teacher = built.cast.trained["student"], built.cast.frozen["teacher"].module
    mine = copy_of(student)
    seen = [batch for batch in list(batches(built))[:3] for _ in range(2)]
    by_hand(mine, teacher, seen, torch.optim.SGD(mine.parameters(), lr=0.5))
    lab.fit(built)
    assert distance(weights(student), weights(mine)) < 1e-6
    again = built.distiller.optimizers(use_pl_optimizer=False).again  # type: ignore[union-attr]
    assert again == built.distiller._again


@pytest.mark.parametrize(
    "overrides",
    [
        ("trainer.gradient_clip_val=0.01",),
        ("trainer.accumulate_grad_batches=2",),
        ("trainer.precision=bf16-mixed",),
        ("optimizer.fused=false",),  # an update that cannot be gated on the device is looked at by the trainer
    ],
)
def test_it_is_asked_through_the_trainer_where_that_has_something_to_do(lab: Lab, overrides: tuple[str, ...]) -> None:
    built = lab.stage("optimizer={use: local.twice, lr: 0.5}", "trainer.max_steps=2", *overrides)
    before = weights(built.cast.trained["student"])
    lab.fit(built)
    assert built.distiller.optimizers(use_pl_optimizer=False).again is None  # type: ignore[union-attr]
    assert distance(weights(built.cast.trained["student"]), before) > 0


def test_an_update_made_again_is_gated_too(lab: Lab) -> None:
    built = lab.stage("optimizer={use: local.twice, lr: 0.5}", "trainer.max_epochs=2")
    poison(built.cast.frozen["teacher"].module, at=5)  # the second update of the third batch
    good = lab.stage("optimizer={use: local.twice, lr: 0.5}", "trainer.max_steps=3")
    poison(good.cast.frozen["teacher"].module, at=6)
    with pytest.raises(RunError, match="the loss `kd` became nan"):
        lab.fit(built, log_every_n_steps=4)
    found = weights(built.cast.trained["student"])
    assert all(bool(value.isfinite().all()) for value in found.values())
    lab.fit(good)
    assert distance(found, weights(good.cast.trained["student"])) > 0  # one update less


# ---- numbers gone wrong


def poison(teacher: nn.Module, at: int) -> None:
    """From its call number ``at`` on (the first is 0), the teacher gives NaN."""
    calls = iter(range(10**6))
    teacher.register_forward_hook(lambda module, args, output: output * (float("nan") if next(calls) >= at else 1.0))


def steps_of(built: Any, lab: Lab, **settings: Any) -> list[dict[str, Tensor]]:
    """The student's weights after each optimizer step of a sound run."""
    history: list[dict[str, Tensor]] = []

    class Watch(Callback):
        def on_train_batch_end(self, trainer: Any, module: Any, *rest: Any) -> None:
            if trainer.global_step > len(history):
                history.append(weights(module.students["student"]))

    lab.fit(built, Watch(), **settings)
    return history


OPTIMIZER_NAMES = {
    "sgd": "{use: sgd, lr: 0.1}",
    "adamw": "{use: adamw, lr: 0.01}",
    "a third party's": "{use: local.plain_sgd, lr: 0.1}",
}


@pytest.mark.parametrize("optimizer", OPTIMIZER_NAMES.values(), ids=OPTIMIZER_NAMES)
@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("every", [4, 50])
def test_no_update_is_made_with_a_loss_that_is_no_number(lab: Lab, optimizer: str, accumulate: int, every: int) -> None:
    overrides = (f"optimizer={optimizer}", "trainer.max_epochs=2", f"trainer.accumulate_grad_batches={accumulate}")
    good = steps_of(lab.stage(*overrides), lab, log_every_n_steps=every)
    built = lab.stage(*overrides)
    poison(built.cast.frozen["teacher"].module, at=6 * accumulate if accumulate == 1 else 5)
    before = 6 if accumulate == 1 else 2  # steps whose loss was a number
    with pytest.raises(RunError, match="stage `distil`: the loss `kd` became nan by step") as caught:
        lab.fit(built, log_every_n_steps=every)
    assert "No update was made with it" in str(caught.value)
    assert "`ce`" not in str(caught.value)
    assert distance(weights(built.cast.trained["student"]), good[before - 1]) == 0


def test_the_very_first_update_is_gated_too(lab: Lab) -> None:
    for optimizer in OPTIMIZER_NAMES.values():
        built = lab.stage(f"optimizer={optimizer}")
        student = built.cast.trained["student"]
        before = weights(student)
        poison(built.cast.frozen["teacher"].module, at=0)
        with pytest.raises(RunError, match="`kd` became nan"):
            lab.fit(built, log_every_n_steps=50)
        assert distance(weights(student), before) == 0


def test_an_infinite_loss_is_named_with_its_value(lab: Lab) -> None:
    built = lab.stage("losses.up={use: local.overflow}")
    overflow: Any = next(loss.loss for loss in built.losses if loss.name == "up")
    student = built.cast.trained["student"]
    before = weights(student)
    type(overflow).armed = True
    try:
        with pytest.raises(RunError, match="the loss `up` became inf by step"):
            lab.fit(built)
    finally:
        type(overflow).armed = False
    assert distance(weights(student), before) == 0


def test_each_rank_resumes_with_its_own_random_numbers(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    from kdcore import distiller

    def gather(states: list[Any], state: Any) -> None:
        torch.manual_seed(99)
        states[:] = [get_state(), state]

    monkeypatch.setattr(torch.distributed, "all_gather_object", gather)
    torch.manual_seed(5)
    mine = get_state()
    expected = torch.rand(3)
    saved = distiller._of_all_ranks(mine, 2)
    assert len(saved) == 2
    set_state(saved[1])
    assert torch.equal(torch.rand(3), expected)
    set_state(saved[0])
    assert not torch.equal(torch.rand(3), expected)


def test_the_last_checkpoint_is_good_and_a_run_goes_on_from_it(lab: Lab) -> None:
    settings: dict[str, Any] = {"checkpoints": True, "log_every_n_steps": 50}
    overrides = (
        "trainer.max_epochs=3",
        "optimizer={use: adamw, lr: 0.01}",
        "losses.kd.weight={use: local.balance, loss: kd, other: ce}",
    )
    whole = lab.stage(*overrides)
    lab.fit(whole, **settings)
    last = lab.folder / "distil" / "last.ckpt"
    last.unlink()
    built = lab.stage(*overrides)
    poison(built.cast.frozen["teacher"].module, at=8)  # in the second epoch
    with pytest.raises(RunError):
        lab.fit(built, **settings)
    assert torch.load(last, weights_only=True)["global_step"] == 6
    again = lab.stage(*overrides)
    lab.fit(again, resume=last, **settings)
    student, expected = again.cast.trained["student"], whole.cast.trained["student"]
    assert distance(weights(student), weights(expected)) == 0


def test_no_checkpoint_is_written_once_a_loss_has_gone_wrong(lab: Lab) -> None:
    class Save(Callback):
        def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, index: int) -> None:
            if index == 4:
                trainer.save_checkpoint(lab.folder / "eager.ckpt")

    built = lab.stage()
    poison(built.cast.frozen["teacher"].module, at=2)
    with pytest.raises(RunError, match="`kd` became nan by step"):
        lab.fit(built, Save(), log_every_n_steps=50)
    assert not (lab.folder / "eager.ckpt").exists()


def poison_gradient(student: nn.Module, at: int) -> None:
    """In its training step number ``at`` (the first is 0), every gradient of the student is NaN; its losses are not."""
    steps = iter(range(10**6))

    def hook(module: nn.Module, args: Any, output: Tensor) -> None:
        if output.requires_grad and next(steps) == at:
            output.register_hook(lambda gradient: gradient * float("nan"))

    student.register_forward_hook(hook)


@pytest.mark.parametrize("at", [11, 8], ids=["last step before a checkpoint", "a loss shows it first"])
def test_a_gradient_that_is_no_number_reaches_no_checkpoint(lab: Lab, at: int) -> None:
    built = lab.stage("trainer.max_epochs=3")
    poison_gradient(built.cast.trained["student"], at)
    with pytest.raises(RunError) as caught:
        lab.fit(built, checkpoints=True, log_every_n_steps=50)
    assert str(caught.value) == (
        "stage `distil`: the weights `students.student.hidden.0.linear.weight` and 3 more became NaN or infinite "
        "by step 12, though every loss before them was a number: a gradient was none. Look at what has none at 0 or "
        "at infinity (a root, a norm, a logarithm, also behind `torch.where`; `trainer.detect_anomaly: true` names "
        "it) and at the learning rate. No checkpoint has these weights: the last one is good"
    )
    saved = torch.load(lab.folder / "distil" / "last.ckpt", weights_only=True)
    assert saved["global_step"] == 6
    assert all(bool(value.isfinite().all()) for value in saved["state_dict"].values())


def test_the_weights_of_a_projector_are_looked_at_too(lab: Lab) -> None:
    nets = [f"models.{name}={{use: local.net}}" for name in ("student", "teacher")]
    tap = "taps={mid: {student: deep, teacher: deep, project: conv1x1}}"
    built = lab.stage(*nets, tap, "losses.hint={use: mse, at: mid}")
    bound = next(loss for loss in built.losses if loss.name == "hint")
    parameter = next(bound.projectors.parameters())

    class Spoil(Callback):
        def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, index: int) -> None:
            if index == 5:
                parameter.data.fill_(float("inf"))

    with pytest.raises(RunError, match=r"the weights `losses\.hint\.projectors\.logits\..*` became NaN or infinite"):
        lab.fit(built, Spoil(), checkpoints=True, log_every_n_steps=50)
    assert not (lab.folder / "distil" / "last.ckpt").exists()


def test_a_loss_that_changes_its_parts_is_refused(lab: Lab) -> None:
    built = lab.stage("stages.distil.losses={p: {use: local.parts}}")
    parts: Any = built.losses[0].loss
    forward, calls = parts.forward, iter(range(10))
    parts.forward = lambda *args: dict(list(forward(*args).items())[: 1 if next(calls) == 3 else 2])
    with pytest.raises(RunError, match=r"gave 1 values in this step \(p.small\) and 2 before \(p.small, p.large\)"):
        lab.fit(built)


# ---- what is logged


def test_losses_are_logged_under_stage_and_name_as_means_since_the_last_log_point(lab: Lab) -> None:
    fine, coarse = lab.stage("losses.parts={use: local.parts}"), lab.stage("losses.parts={use: local.parts}")
    lab.fit(fine, log_every_n_steps=1)
    each = {name: lab.memo.values(name) for name in lab.memo.names}
    assert each.keys() == {f"distil/train/{name}" for name in ("ce", "kd", "parts.small", "parts.large")}
    lab.memo.rows.clear()
    lab.fit(coarse, log_every_n_steps=4)
    for name, values in each.items():
        assert lab.memo.values(name) == pytest.approx([sum(values[:4]) / 4, sum(values[4:]) / 2])
    assert [step for step, row in lab.memo.rows if "distil/train/ce" in row] == [4, 6]


@pytest.mark.parametrize("accumulate", [1, 2])
def test_what_is_logged_is_the_mean_of_all_terms(lab: Lab, accumulate: int) -> None:
    """Batches with other numbers of terms count by them, as they do in an update."""
    built = lab.stage("data.masked=true", "optimizer={use: sgd, lr: 0.0}", "losses.kd.weight=0.0")
    found = [(logits(built.cast.trained["student"], batch), batch) for batch in batches(built)]
    values = [nn.functional.cross_entropy(ours, batch["labels"], reduction="none") for ours, batch in found]
    mask = torch.cat([batch["mask"] for _, batch in found])
    expected = float(torch.cat(values)[mask].mean())
    means = [float(value[batch["mask"]].mean()) for value, (_, batch) in zip(values, found, strict=True)]
    assert abs(sum(means) / len(means) - expected) > 1e-4
    lab.fit(built, log_every_n_steps=50, accumulate_grad_batches=accumulate)
    assert lab.memo.values("distil/train/ce") == [pytest.approx(expected, rel=1e-6)]


def test_counts_over_ranks_leave_the_losses_own_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda tensor: tensor.mul_(2))
    mine, window = torch.tensor([3, 5]), torch.tensor(7)
    assert _over_ranks(mine, [None, window], 2).tolist() == [6, 7]
    assert _over_ranks(mine, [None, window], 1).tolist() == [3, 7]
    assert mine.tolist() == [3, 5]


def test_metrics_are_logged_under_stage_and_name(lab: Lab) -> None:
    built = lab.stage("metrics={accuracy: {use: accuracy}, agree: {use: agreement}}")
    lab.fit(built, limit_val_batches=1.0)
    student, teacher = built.cast.trained["student"].eval(), built.cast.frozen["teacher"].module
    rows = list(built.data.data.val_dataloader())
    image, labels = (torch.cat([row[key] for row in rows]) for key in ("image", "labels"))
    ours, theirs = student(image).argmax(1), teacher(image).argmax(1)
    assert lab.memo.values("distil/val/accuracy") == [pytest.approx(float((ours == labels).float().mean()))]
    assert lab.memo.values("distil/val/agree") == [pytest.approx(float((ours == theirs).float().mean()))]
    assert {name for name in lab.memo.names if "/val" in name} == {"distil/val/accuracy", "distil/val/agree"}
    assert built.distiller.monitored == "distil/val/accuracy"


PAIR = (
    "models.other={use: mlp, hidden: [5]}",
    "stages.distil.train=[student, other]",
    "stages.distil.teachers=[student, other]",
    "losses.ce={use: cross_entropy, student: student}",
    "losses.ce2={use: cross_entropy, student: other}",
    "losses.kd={use: kl, student: student, teacher: other}",
    "losses.kd2={use: kl, student: other, teacher: student}",
)


def test_two_trained_models_have_metrics_of_their_own_and_are_not_compared_with_themselves(lab: Lab) -> None:
    built = lab.stage(*PAIR, "metrics={agree: {use: agreement}}")
    lab.fit(built, limit_val_batches=1.0)
    student, other = (built.cast.trained[name].eval() for name in ("student", "other"))
    image = torch.cat([batch["image"] for batch in built.data.data.val_dataloader()])
    agree = float((student(image).argmax(1) == other(image).argmax(1)).float().mean())
    assert agree < 1
    for name in ("student", "other"):
        assert lab.memo.values(f"distil/val/{name}/agree") == [pytest.approx(agree)]
    both = [lab.memo.values(f"distil/val/{name}/accuracy")[0] for name in ("student", "other")]
    assert lab.memo.values("distil/val/accuracy") == [pytest.approx(sum(both) / 2)]
    assert built.distiller.latest["student"] == pytest.approx({"agree": agree, "accuracy": both[0]})


# ---- where the device is read


class Reads(TorchDispatchMode):
    """Counts the times a value is brought to the host."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if "local_scalar_dense" in str(func) or "is_nonzero" in str(func):
            self.found.append(str(func))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    "overrides",
    [
        (),
        ("optimizer={use: adamw, lr: 0.01, schedule: {use: cosine, warmup: 0.1}}",),
        ("losses.kd.weight={use: local.balance, loss: ce, other: kd}",),
        ("data.masked=true", "trainer.accumulate_grad_batches=2"),
        ("models.slow={use: ema, of: student}", "stages.distil.teachers=[slow]"),
        ("trainer.gradient_clip_val=0.1", "trainer.precision=bf16-mixed"),
    ],
    ids=["plain", "adamw", "schedule", "masks", "ema", "clipped"],
)
def test_a_step_reads_nothing_from_the_device_between_log_points(lab: Lab, overrides: tuple[str, ...]) -> None:
    built = lab.stage("data.n=256", *overrides)
    reads: list[int] = []

    class Count(Callback):
        def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, index: int) -> None:
            if index % 4 == 0:
                self.mode = Reads()
                self.mode.__enter__()

        def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, index: int) -> None:
            if index % 4 == 3:
                self.mode.__exit__(None, None, None)
                reads.append(len(self.mode.found))

    lab.fit(built, Count(), log_every_n_steps=10**6)
    assert reads == [0, 0, 0, 0]


def test_the_count_of_reads_can_fail() -> None:
    with Reads() as mode:
        float(torch.ones(()))
        bool(torch.ones(()))
    assert len(mode.found) == 2
