from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from workshop import Workshop, weights

from kdcore.cast import Cast
from kdcore.evaluate import evaluate
from kdcore.run import stages
from kdcore.run.stages import Options

ACTION = '''
"""A table of what the teacher thinks."""
import torch

from kdcore.hookspecs import hookimpl


def opinions(*, of: str = "teacher", broken: bool = False):
    def act(models, data):
        if broken:
            return [1, 2]
        rows = data.split("train").columns
        with torch.no_grad():
            answers = models(of)(rows["image"]).argmax(1)
        return {"id": rows["id"], "answer": answers}

    return act


@hookimpl
def kdcore_register(add):
    add("action", "opinions", opinions)
'''


@pytest.mark.parametrize(("field", "value"), [("seeds", 1), ("stage", None), ("probe", True), ("fresh", False)])
def test_defaults(field: str, value: object) -> None:
    assert getattr(Options(Path("runs")), field) == value


def test_an_action_writes_a_table_once(workshop: Workshop) -> None:
    plugin = workshop.write("opinions.py", ACTION)
    words = ("stages.ask={do: {use: local.opinions}}", "--plugin", plugin)
    workshop.fit(*words, "--no-probe")
    table = load_file(workshop.folders()[0] / "ask" / "table.safetensors")
    assert set(table) == {"id", "answer"}
    assert len(table["id"]) == 1000
    content = json.loads((workshop.folders()[0] / "ask" / "stage.json").read_text())
    assert content["columns"] == ["answer", "id"]
    assert "stage `ask`: reused from" in workshop.fit(*words).out


def test_an_action_that_gives_no_table(workshop: Workshop) -> None:
    plugin = workshop.write("opinions.py", ACTION)
    result = workshop.kdcore(
        "fit", "stages.ask={do: {use: local.opinions, broken: true}}", "--plugin", plugin, "--no-probe"
    )
    assert result.code == 1
    assert result.err.endswith("action `local.opinions` returned a list, not a table of tensors by name\n")
    assert not (workshop.folders()[0] / "ask" / "stage.json").exists()


def test_later_stages_train_on_the_rows_of_a_table(workshop: Workshop) -> None:
    table = '{"id": rows["id"][:300], "labels": answers[:300]}'
    plugin = workshop.write("opinions.py", ACTION.replace('{"id": rows["id"], "answer": answers}', table))
    words = (
        "stages.ask={do: {use: local.opinions}}",
        "stages.more={train: student, losses: {ce: {use: cross_entropy}}, data: {table: ask, batch_size: 100}}",
        "--plugin", plugin,
    )  # fmt: skip
    workshop.fit(*words, "--no-probe")
    (folder,) = workshop.folders()
    assert json.loads((folder / "more" / "stage.json").read_text())["steps"] == 2 * 3  # epochs of 300 rows
    again = workshop.fit(*words, "stages.more.trainer={max_epochs: 1}")
    assert "stage `ask`: reused from" in again.out
    assert json.loads((workshop.folders()[1] / "more" / "stage.json").read_text())["steps"] == 3
    assert workshop.kdcore("validate", *words).code == 0


def test_a_teacher_that_follows_is_kept_as_weights(workshop: Workshop) -> None:
    workshop.fit(
        "models.mean={use: ema, of: student, decay: 0.5}",
        "stages.distil={train: student, teachers: [mean], losses: {ce: {use: cross_entropy}, kd: {use: kl}}}",
    )
    mean, student = (weights(workshop.folders()[0])[f"distil/{name}/head.weight"] for name in ("mean", "student"))
    assert mean.shape == student.shape
    assert not torch.equal(mean, student)
    other = workshop.fit("models.teacher={use: mlp, hidden: [4], weights: run://tiny/distil/mean}", "~stages.teach")
    assert "teacher `teacher` has accuracy" in other.out


@pytest.mark.parametrize("follower", ["ema, decay: 0.5", "snapshot"])
def test_a_follower_is_kept_as_it_was_beside_the_best_student(workshop: Workshop, follower: str) -> None:
    workshop.fit(
        f"models.mean={{use: {follower}, of: student}}",
        "stages.distil={train: student, teachers: [mean], losses: {kd: {use: kl}, ce: {use: cross_entropy, "
        "weight: {use: step, at: [0.5], factor: -1.0}}}}",  # the second epoch unlearns
    )
    place = workshop.folders()[0] / "distil"
    best, last = (torch.load(place / f"{name}.ckpt", weights_only=True) for name in ("best", "last"))
    assert (best["global_step"], last["global_step"]) == (4, 8)
    student, mean = (load_file(place / f"{name}.safetensors") for name in ("student", "mean"))
    for key, value in student.items():
        assert torch.equal(value, best["state_dict"][f"students.student.{key}"])
    for key, value in mean.items():
        assert torch.equal(value, best["followers"]["mean"]["weights"][key])
        assert not torch.equal(value, last["followers"]["mean"]["weights"][key])


def test_a_teacher_is_scored_again_once_something_has_changed(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    scored: list[set[str]] = []

    def counting(cast: Cast, scores: Any, *args: Any, **named: Any) -> Any:
        if "teacher" in cast.frozen:
            scored.append(set(scores))
        return evaluate(cast, scores, *args, **named)

    monkeypatch.setattr(stages, "evaluate", counting)
    workshop.fit(
        "models.two={use: ensemble, of: [teacher, alone]}",
        "stages.second={train: student, teachers: [teacher, two]}",
        "stages.more={train: teacher, losses: {ce: {use: cross_entropy}}}",
        "stages.third={train: student, teachers: [teacher, two]}",
        "stages.fourth={train: student, teachers: [teacher], metrics: {top2: {use: accuracy, top_k: 2}}}",
    )
    assert [names - {"student"} for names in scored if names != {"student"}] == [
        {"teacher"}, {"two"}, {"teacher", "two"}, {"teacher"},
    ]  # fmt: skip
    (folder,) = workshop.folders()
    of = {path.parent.name: json.loads(path.read_text()) for path in folder.glob("*/stage.json")}
    assert of["distil"]["teachers"]["teacher"] == of["second"]["teachers"]["teacher"] == of["teach"]["best"]["teacher"]
    assert of["third"]["teachers"]["teacher"] == of["more"]["best"]["teacher"] != of["teach"]["best"]["teacher"]
    assert of["third"]["teachers"]["two"] != of["second"]["teachers"]["two"]
    assert of["fourth"]["teachers"]["teacher"].keys() == {"accuracy", "top2"}


NOTED = """
from kdcore.data.digits import Digits
from kdcore.hookspecs import hookimpl


class Noted(Digits):
    def split(self, name):
        if name == "train" and not self.notes:
            self.notes.append("2 of 1002 images were left out: they cannot be read")
        return super().split(name)


@hookimpl
def kdcore_register(add):
    add("data", "noted", Noted)
"""


def test_what_the_data_left_out_is_said_once_and_written_down(workshop: Workshop) -> None:
    plugin = workshop.write("noted.py", NOTED)
    result = workshop.fit("data={use: local.noted, batch_size: 250}", "--plugin", plugin)
    assert result.out.count("data: 2 of 1002 images were left out: they cannot be read") == 1
    assert workshop.report()["data_notes"] == ["2 of 1002 images were left out: they cannot be read"]
    page = (workshop.folders()[0] / "report.md").read_text()
    assert "- data: 2 of 1002 images were left out: they cannot be read" in page


def test_models_keep_their_weights_from_stage_to_stage(workshop: Workshop) -> None:
    more = "stages.more={train: student, losses: {ce: {use: cross_entropy}}, optimizer: {lr: 0.0}}"
    result = workshop.fit(more)
    assert result.code == 0
    folder = workshop.folders()[0]
    before, after = (load_file(folder / stage / "student.safetensors") for stage in ("distil", "more"))
    for name in before:  # at a rate of 0 (decay scales with it) nothing moves
        assert torch.equal(before[name], after[name])
    # and those of a stage that is reused are taken up where it ended
    again = workshop.fit(more, "stages.more.optimizer.weight_decay=0")
    assert "stage `distil`: reused" in again.out
    assert "stage `more`: reused" not in again.out
    assert torch.equal(weights(workshop.folders()[1])["more/student/head.bias"], after["head.bias"])


def test_what_a_stage_goes_without_is_said(workshop: Workshop) -> None:
    workshop.fit("~stages.alone.losses", "--stage", "teach")
    result = workshop.fit("~stages.alone.losses", "--stage", "alone")
    assert "stage `alone`: has no teacher, so it goes without losses.kd" in result.out


def test_a_student_alone_that_is_starved_of_labels_is_said(workshop: Workshop) -> None:
    few = ("data.labels=100", "stages.teach.data.labels=null")
    taught = workshop.fit(*few, "--stage", "teach")
    assert "have no label" not in taught.out
    result = workshop.fit(*few, "--stage", "alone")
    assert "stage `alone`: warning: 900 of its 1000 training samples have no label, and no teacher speaks" in result.out
    assert "leave them out with `data: {samples: labelled}`, and give `trainer.max_steps`" in result.out
    chosen = workshop.fit(*few, "stages.alone.data.samples=labelled", "--stage", "alone")
    assert chosen.code == 0
    assert "have no label" not in chosen.out


def test_a_student_starts_as_it_would_alone(workshop: Workshop) -> None:
    still = ("optimizer.lr=0.0", "optimizer.weight_decay=0", "--no-probe")
    workshop.fit(*still)
    found = weights(workshop.folders()[0])
    assert torch.equal(found["alone/alone/head.weight"], found["distil/student/head.weight"])


def test_values_that_are_no_numbers_are_written_as_null(workshop: Workshop) -> None:
    plugin = workshop.write(
        "nan.py",
        "import torch\nfrom torchmetrics import Metric\nfrom kdcore.hookspecs import hookimpl\n\n"
        "class Nothing(Metric):\n    takes = 'preds_target'\n    higher_is_better = True\n"
        "    def __init__(self) -> None:\n        super().__init__(compute_with_cache=False)\n"
        "        self.add_state('n', torch.zeros(()), dist_reduce_fx='sum')\n"
        "    def update(self, preds, target):\n        self.n += 1\n"
        "    def compute(self):\n        return self.n * float('nan')\n\n"
        "@hookimpl\ndef kdcore_register(add):\n    add('metric', 'nothing', Nothing)\n",
    )
    workshop.fit("metrics.nothing={use: local.nothing}", "--plugin", plugin)
    stage = json.loads((workshop.folders()[0] / "teach" / "stage.json").read_text())
    assert stage["best"]["teacher"]["nothing"] is None
    assert stage["last"]["teacher"]["accuracy"] > 0
    assert workshop.report()["models"]["teacher"]["metrics"]["nothing"]["best"] is None
