from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lab import BASE, Lab, distance, weights
from torch import Tensor

from kdcore.errors import RecipeError, RunError

TWINS = ("models.alone=${models.student}", "models.later={use: mlp, hidden: [7]}")


def start(lab: Lab, name: str, *overrides: str, seed: int | None = None) -> dict[str, Tensor]:
    """A model's first weights."""
    builder = lab.builder(*overrides, seed=seed)
    stage = builder.recipe.stages["distil"]
    return weights(builder.net(name, builder.task(stage.task, builder.data(stage.data)).facts))


def test_equal_slots_start_with_equal_weights_whatever_else_there_is(lab: Lab) -> None:
    student = start(lab, "student")
    assert distance(start(lab, "alone", "models.alone=${models.student}"), student) == 0
    assert distance(start(lab, "student", *TWINS, "models.teacher.hidden=[3, 3]"), student) == 0
    builder = lab.builder(*TWINS)
    facts = builder.data(builder.recipe.data).facts
    torch.rand(7)  # whatever else draws
    found = [weights(builder.net(name, facts)) for name in ("later", "alone", "teacher", "student")]
    assert distance(found[1], student) == 0
    assert distance(found[3], student) == 0


def test_first_weights_depend_on_the_seeds_and_the_content(lab: Lab) -> None:
    student = start(lab, "student")
    assert distance(start(lab, "student", "models.student.seed=1"), student) > 0.01
    assert distance(start(lab, "student", "models.student.seed=0"), student) == 0
    assert distance(start(lab, "student", seed=1), student) > 0.01
    assert distance(start(lab, "student", seed=0), student) == 0
    other = start(lab, "student", "models.student.dropout=0.1")
    assert torch.equal(other["head.bias"], student["head.bias"]) is False


def test_a_plugins_task_is_chosen_by_a_metric_of_its_own_plugin(lab: Lab, tmp_path: Path) -> None:
    file = tmp_path / "own.py"
    file.write_text(OWN_METRIC)
    lab.plugins.load_file(file)
    built = lab.stage("task={use: local.twisted}", "stages.distil.losses={kd: {use: kl}}")
    (scores,) = built.distiller.scores.values()
    assert type(scores.metrics["twist"]).__name__ == "Twist"
    assert built.distiller.monitored == "distil/val/twist"
    core = lab.stage("task={use: classify}")
    assert list(core.distiller.scores["student"].metrics) == ["accuracy"]


OWN_METRIC = """
from typing import ClassVar

from kdcore.hookspecs import hookimpl
from kdcore.metrics.accuracy import Accuracy
from kdcore.tasks.classify import Classify


class Twist(Accuracy):
    def __init__(self) -> None:
        super().__init__()


class Twisted(Classify):
    primary: ClassVar[tuple[str, str]] = ("twist", "max")


@hookimpl
def kdcore_register(add):
    add("task", "twisted", Twisted)
    add("metric", "twist", Twist)
"""


def test_making_a_model_leaves_the_generator_alone(lab: Lab) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    start(lab, "student")
    lab.stage("losses.kd.weight=1")
    assert torch.equal(torch.rand(3), expected)


def test_projectors_start_equal_from_stage_to_stage_and_differ_by_seed(lab: Lab) -> None:
    overrides = (
        "models.teacher={use: local.net, width: 3}",
        "models.student={use: local.net}",
        "taps={mid: {student: deep, teacher: deep, project: conv1x1}}",
        "stages.distil.losses={ce: {use: cross_entropy}, hint: {use: mse, at: mid}}",
    )
    one, other = (weights(lab.stage(*overrides).losses[1].projectors) for _ in range(2))
    assert distance(one, other) == 0
    assert distance(weights(lab.stage(*overrides, seed=1).losses[1].projectors), one) > 0.01


def test_edits_are_applied_in_order_after_the_weights_are_drawn(lab: Lab) -> None:
    net = "models.student={use: local.net}"
    plain = start(lab, "student", net)
    edits = "models.student.edits=[{use: local.widen_head, scale: 2.0}, {use: local.widen_head, scale: 5.0}]"
    edited = start(lab, "student", net, edits)
    assert torch.equal(edited["head.weight"], plain["head.weight"] * 10)
    assert torch.equal(edited["stem.0.weight"], plain["stem.0.weight"])


def test_an_edit_that_returns_no_module_is_named(lab: Lab) -> None:
    with pytest.raises(RunError, match=r"edit `local\.forget` returned a NoneType, not a module"):
        start(lab, "student", "models.student={use: local.net, edits: [{use: local.forget}]}")


def test_what_a_slot_leaves_out_is_filled_in_with_facts(lab: Lab) -> None:
    built = lab.stage()
    student = built.cast.trained["student"]
    assert student.head.out_features == 3  # type: ignore[union-attr]
    assert student.hidden[0].linear.in_features == 16  # type: ignore[index, union-attr]


def test_a_task_and_data_that_disagree_are_refused(lab: Lab) -> None:
    with pytest.raises(RecipeError, match="the task has classes = 5, the data has classes = 3") as caught:
        lab.stage("task.classes=5")
    assert "set `task.classes: 3` or leave it out" in str(caught.value)


def test_what_a_factory_refuses_is_placed_in_the_recipe(lab: Lab) -> None:
    with pytest.raises(RecipeError, match=r"models.student: model `mlp`: hidden=\[0\]: every layer needs"):
        lab.stage("models.student.hidden=[0]")
    with pytest.raises(RecipeError, match=r"losses.kd: loss `kl`: temperature=0.0 is not above 0"):
        lab.stage("losses.kd.temperature=0")
    with pytest.raises(RecipeError, match=r"losses.kd.weight: schedule `linear`: until=0.0 is not in"):
        lab.stage("losses.kd.weight={use: linear, until: 0}")


def test_a_composite_has_no_weights_of_its_own(lab: Lab) -> None:
    with pytest.raises(RunError, match="model `slow` is composed of others; it has no weights of its own"):
        start(lab, "slow", "models.slow={use: ema, of: student}")


def test_data_is_shared_by_equal_slots_and_seeded(lab: Lab) -> None:
    builder = lab.builder("stages.teach.data={batch_size: 8}", seed=3)
    teach, distil = (builder.recipe.stages[name].data for name in ("teach", "distil"))
    assert builder.data(distil) is builder.data(builder.recipe.data)
    assert builder.data(teach) is not builder.data(distil)
    assert builder.data(teach).batch_size == 8
    assert builder.data(distil).seed == 3


def test_the_primary_metric_is_always_among_the_scores(lab: Lab) -> None:
    built = lab.stage("metrics={ece: {use: calibration}}")
    scores: Any = built.distiller.scores["student"]
    assert set(scores.metrics) == {"ece", "accuracy"}


def test_a_loss_of_weight_0_is_not_built_and_its_teacher_not_run(lab: Lab) -> None:
    built = lab.stage("losses.kd.weight=0")
    assert [loss.name for loss in built.losses] == ["ce"]
    calls: list[int] = []
    built.cast.frozen["teacher"].module.register_forward_hook(lambda *args: calls.append(1))
    lab.fit(built)
    assert calls == []


def test_a_model_keeps_its_weights_from_stage_to_stage(lab: Lab) -> None:
    from kdcore.assemble import assemble

    builder = lab.builder()
    teach = assemble(builder, builder.recipe.stages["teach"])
    before = weights(teach.cast.trained["teacher"])
    lab.fit(teach)
    after = weights(teach.cast.trained["teacher"])
    teach.close()
    distil = assemble(builder, builder.recipe.stages["distil"])
    assert distance(after, before) > 1e-3
    assert distance(weights(distil.cast.frozen["teacher"].module), after) == 0


def test_the_base_recipe_of_these_tests_trains(lab: Lab) -> None:
    built = lab.stage("trainer.max_epochs=30", text=BASE, name="teach")
    lab.fit(built, check_val_every_n_epoch=30, limit_val_batches=1.0)
    assert lab.memo.values("teach/val/accuracy")[-1] > 0.8
