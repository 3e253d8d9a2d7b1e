from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file
from workshop import TINY, Workshop, weights

from kdcore.run.folder import RunFolder

SHIFTED = '''
"""Cross-entropy of a shifted target."""
from kdcore.hookspecs import hookimpl
from kdcore.losses.cross_entropy import CrossEntropy


class Mine(CrossEntropy):
    needs = frozenset({"student.logits"})

    def __init__(self, *, label_smoothing: float = 0.5) -> None:
        super().__init__(label_smoothing=label_smoothing)


@hookimpl
def kdcore_register(add):
    add("loss", "my_loss", Mine)
'''


def tree(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_a_run_folder_holds_what_the_design_says(finished: Workshop) -> None:
    (folder,) = finished.folders()
    assert re.fullmatch(r"\d{8}-\d{6}-[0-9a-f]{4}", folder.name)
    stages = {
        f"{stage}/{name}"
        for stage, model in (("teach", "teacher"), ("alone", "alone"), ("distil", "student"))
        for name in ("last.ckpt", "best.ckpt", f"{model}.safetensors", f"{model}.json", "metrics.csv", "stage.json")
    }
    above = {"run.yaml", "recipe.yaml", "report.json", "report.md", "tradeoff.png", ".lock"}
    assert tree(folder) == above | stages


def test_the_report_keeps_its_contract(finished: Workshop) -> None:
    report = finished.report()
    assert report["task"] == "classify"
    assert report["primary"] == {"name": "accuracy", "mode": "max"}
    assert report["seeds"] == [0]
    assert report["split"] == "test"
    assert list(report["models"]) == ["teacher", "student", "alone"]
    student = report["models"]["student"]
    assert set(student["metrics"]["accuracy"]) >= {"last", "best", "test"}
    assert student["parameters"] == 64 * 4 + 4 + 4 * 10 + 10
    assert student["bytes"] == 4 * student["parameters"]
    assert student["latency_ms"] > 0
    comparison = report["comparisons"]["student"]
    assert (comparison["teacher"], comparison["alone"]) == ("teacher", "alone")
    metrics = {name: model["metrics"]["accuracy"]["test"] for name, model in report["models"].items()}
    assert comparison["gain"] == pytest.approx(metrics["student"] - metrics["alone"])
    assert comparison["verdict"] in ("better", "no difference", "worse", "undecided")
    assert [report["models"][name]["role"] for name in report["models"]] == ["teacher", "student", "alone"]


def test_a_stage_says_what_it_found_and_how_to_use_the_weights(finished: Workshop) -> None:
    folder = finished.folders()[0]
    stage = json.loads((folder / "distil" / "stage.json").read_text())
    assert (stage["stage"], stage["seed"], stage["steps"]) == ("distil", 0, 8)
    assert stage["best"]["student"]["accuracy"] >= stage["last"]["student"]["accuracy"]
    assert stage["best"] == {
        "student": {"accuracy": finished.report()["models"]["student"]["metrics"]["accuracy"]["best"]}
    }
    taught = json.loads((folder / "teach" / "stage.json").read_text())
    assert stage["teachers"]["teacher"] == taught["best"]["teacher"]
    card = json.loads((folder / "distil" / "student.json").read_text())
    assert card["use"] == "mlp"
    assert card["args"] == {"hidden": [4]}
    assert card["facts"]["classes"] == 10
    assert card["class_names"] == list("0123456789")
    assert card["metrics"] == stage["best"]["student"]


def test_no_checkpoint_of_the_student_holds_its_teacher(finished: Workshop) -> None:
    folder = finished.folders()[0] / "distil"
    wanted = {"net.0.weight", "net.0.bias"}
    shapes = {tuple(tensor.shape) for tensor in load_file(folder / "student.safetensors").values()}
    assert shapes == {(4, 64), (4,), (10, 4), (10,)}, wanted
    for name in ("best.ckpt", "last.ckpt"):
        state = torch.load(folder / name, weights_only=True)["state_dict"]
        assert {tuple(tensor.shape) for tensor in state.values()} == shapes
        assert all(key.startswith("students.student.") for key in state)


def test_the_best_weights_are_kept_unless_the_last_are_wanted(workshop: Workshop) -> None:
    # a rate that grows ruins what the first epochs learnt
    worse = ["optimizer.lr=0.05", "optimizer.schedule={use: linear, start: 1, end: 40}", "trainer.max_epochs=4"]
    workshop.fit(*worse, "--stage", "teach")
    workshop.fit(*worse, "--stage", "teach", "stages.teach.keep=last")
    best, last = (weights(folder) for folder in workshop.folders())
    checkpoint = torch.load(workshop.folders()[0] / "teach" / "best.ckpt", weights_only=True)
    assert checkpoint["global_step"] < 16
    for folder, found in zip(workshop.folders(), (best, last), strict=True):
        file = "best.ckpt" if found is best else "last.ckpt"
        state = torch.load(folder / "teach" / file, weights_only=True)["state_dict"]
        for name, tensor in found.items():
            assert torch.equal(tensor, state[f"students.teacher.{name.rpartition('/')[2]}"])
    assert any(not torch.equal(best[name], last[name]) for name in best)


def test_the_last_line_says_where_the_report_is(workshop: Workshop) -> None:
    result = workshop.fit("--stage", "teach")
    folder = workshop.folders()[-1]
    assert result.last == f"run folder: {folder}"
    assert not (folder / "report.json").exists()
    result = workshop.fit()
    assert result.last == f"report: {folder / 'report.md'}"
    answer = json.loads((folder / "report.json").read_text())["comparisons"]["student"]["answer"]
    assert result.out.splitlines()[-2] == answer


def test_one_stage_needs_those_before_it(workshop: Workshop) -> None:
    refused = workshop.kdcore("fit", "--stage", "distil")
    assert refused.code == 1
    assert (
        "stage `distil` comes after `teach`, which has not been run: run it first with `--stage teach`" in refused.err
    )
    for stage in ("teach", "alone", "distil"):
        workshop.fit("--stage", stage)
    (folder,) = workshop.folders()  # all in the one that the first attempt made
    assert (folder / "distil" / "student.safetensors").is_file()


def test_an_unknown_stage_is_a_mistake_of_usage(workshop: Workshop) -> None:
    result = workshop.kdcore("fit", "--stage", "distill")
    assert result.code == 2
    assert "--stage distill: there is no such stage\n    did you mean `distil`?" in result.err
    assert not workshop.runs.exists()


def test_a_second_fit_reuses_what_is_finished_and_says_so(workshop: Workshop) -> None:
    workshop.fit()
    again = workshop.fit()
    first, second = workshop.folders()
    for stage in ("teach", "alone", "distil"):
        assert f"stage `{stage}`: reused from {first / stage}: nothing that matters has changed" in again.out
    assert weights(first).keys() == weights(second).keys()
    shutil.rmtree(first)  # what was reused does not go away with where it came from
    assert workshop.kdcore("validate").code == 0

    changed = workshop.fit("losses.kd.weight=0.3")
    assert f"stage `teach`: reused from {second / 'teach'}" in changed.out
    assert f"stage `alone`: reused from {second / 'alone'}" in changed.out
    assert "stage `distil`: reused" not in changed.out
    assert "stage `distil`: `student` has accuracy" in changed.out


def test_fresh_reuses_nothing(workshop: Workshop) -> None:
    workshop.fit("--stage", "teach")
    fresh = workshop.fit("--fresh", "--no-probe")
    assert len(workshop.folders()) == 2
    assert "reused" not in fresh.out
    assert "is finished" not in fresh.out
    # of one stage: it alone is run again, on what there is
    one = workshop.fit("--fresh", "--stage", "distil")
    assert "stage `teach`: reused" in one.out
    assert "stage `distil`: `student` has accuracy" in one.out


def test_seeds_share_what_is_run_once_and_the_report_has_their_spread(workshop: Workshop) -> None:
    result = workshop.fit("--seeds", "3", "seed=5")
    (folder,) = workshop.folders()
    assert sorted(path.name for path in folder.iterdir() if path.is_dir()) == ["seed-5", "seed-6", "seed-7", "teach"]
    assert result.out.count("stage `teach`: `teacher` has accuracy") == 1
    assert "seed 6, stage `distil`: `student` has accuracy" in result.out
    found = [load_file(folder / f"seed-{seed}" / "distil" / "student.safetensors") for seed in (5, 6, 7)]
    assert not any(torch.equal(found[0][key], found[1][key]) for key in found[0])
    report = workshop.report()
    assert report["seeds"] == [5, 6, 7]
    teacher, student = (report["models"][name]["metrics"]["accuracy"] for name in ("teacher", "student"))
    assert teacher["std"] == 0
    assert student["std"] > 0
    single = [json.loads((folder / f"seed-{seed}" / "distil" / "stage.json").read_text()) for seed in (5, 6, 7)]
    assert student["best"] == pytest.approx(sum(stage["best"]["student"]["accuracy"] for stage in single) / 3)
    assert len(report["comparisons"]["student"]["gains"]) == 3
    # a run of one of these seeds finds its student alone; its teacher would be another
    assert workshop.fit("seed=6").out.count("reused from") == 1


def test_no_alone_leaves_out_the_default_baseline(workshop: Workshop) -> None:
    text = re.sub(r"stages:\n(  .*\n)*", "", TINY).replace("  alone: ${models.student}\n", "")
    teacher = workshop.path / "teacher.safetensors"
    workshop.fit("--stage", "teach")
    shutil.copy(workshop.folders()[-1] / "teach" / "teacher.safetensors", teacher)
    recipe = workshop.write("default.yaml", text.replace("hidden: [16]", f"hidden: [16], weights: {teacher.name}"))
    assert workshop.kdcore("check", recipe).out == (
        "alone: train alone\ndistil: train student taught by teacher\nthe recipe is sound\n"
    )
    result = workshop.fit(recipe, "--no-alone")
    report = workshop.report()
    assert list(report["models"]) == ["teacher", "student"]
    assert report["comparisons"]["student"]["verdict"] == "undecided"
    assert "Not known" in result.out
    # what was pinned is written down with its content
    assert re.fullmatch(rf"file://{teacher}#sha256=[0-9a-f]{{64}}", workshop.record()["pins"]["teacher"])


def test_no_probe_scores_no_teacher(workshop: Workshop) -> None:
    assert "teacher `teacher` has accuracy" in workshop.fit().out
    quick = workshop.fit("--no-probe", "losses.kd.weight=0.4")
    assert "teacher `teacher` has accuracy" not in quick.out


def test_recipes_are_laid_over_each_other_and_options_go_anywhere(workshop: Workshop) -> None:
    over = workshop.write("over.yaml", "kdcore: 1\nmodels: {student: {hidden: [2]}}\n")
    result = workshop.fit(
        workshop.recipe, "--seeds", "2", over, "trainer.max_epochs=1", "--no-probe", "losses.kd.weight=1"
    )
    assert result.code == 0
    record = workshop.record()
    assert record["files"] == [str(workshop.recipe), str(over)]
    assert record["overrides"] == ["trainer.max_epochs=1", "losses.kd.weight=1"]
    assert record["recipe"]["models"]["student"]["hidden"] == [2]
    assert record["seeds"] == 2
    assert workshop.report()["models"]["student"]["parameters"] == 64 * 2 + 2 + 2 * 10 + 10


def test_a_loss_of_ones_own_end_to_end(workshop: Workshop) -> None:
    plugin = workshop.write("my_loss.py", SHIFTED)
    words = ["losses.ce={use: local.my_loss}", "--plugin", plugin]
    workshop.fit(*words)
    assert "stage `distil`: reused" in workshop.fit(*words).out
    plugin.write_text(SHIFTED.replace("float = 0.5", "float = 0.2"))
    changed = workshop.fit(*words)
    assert "reused" not in changed.out
    assert "stage `distil`: `student` has accuracy" in changed.out
    record = workshop.record()
    assert record["plugin_files"] == ["plugins/0_my_loss.py"]
    assert "float = 0.2" in (workshop.folders()[-1] / "plugins" / "0_my_loss.py").read_text()


def test_the_record_is_enough_to_run_it_again(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    plugin = workshop.write("my_loss.py", SHIFTED)
    monkeypatch.chdir(workshop.path)
    shutil.copy(_teacher(workshop), "t.safetensors")
    workshop.fit(
        "models.teacher.weights=t.safetensors", "~stages.teach", "losses.ce={use: local.my_loss}",
        "stages.alone.losses={ce: {use: local.my_loss}}", "--plugin", plugin.name, "--seeds", "2",
    )  # fmt: skip
    folder = workshop.folders()[-1]
    for file in (workshop.recipe, plugin):
        file.unlink()
    elsewhere = workshop.path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    again = workshop.fit(folder)
    assert again.out.count("reused from") == 4  # two stages of two seeds
    assert workshop.record()["identity"] == RunFolder(folder).read()["identity"]
    assert workshop.kdcore("validate", folder).out.count("accuracy") == 3


def _teacher(workshop: Workshop) -> Path:
    workshop.fit("--stage", "teach")
    return workshop.folders()[-1] / "teach" / "teacher.safetensors"


def test_the_record_says_where_a_run_comes_from_and_no_secret(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KDCORE_TEST_RATE", "0.0123")
    workshop.fit("optimizer.lr=${oc.env:KDCORE_TEST_RATE}", "--stage", "teach", "seed=3")
    record = workshop.record()
    assert record["recipe"]["optimizer"] == {"use": "adamw", "lr": "${oc.env:KDCORE_TEST_RATE}"}
    assert record["recipe"]["models"]["alone"] == "${models.student}"
    assert {"kdcore", "torch", "lightning", "python", "omegaconf", "torchmetrics"} <= set(record["versions"])
    assert record["versions"]["torch"] == torch.__version__.partition("+")[0]
    assert (record["seed"], record["seeds"], record["alone"]) == (3, 1, True)
    assert "git" in record
    folder = workshop.folders()[-1]
    assert yaml.safe_load((folder / "recipe.yaml").read_text())["optimizer"]["lr"] == "${oc.env:KDCORE_TEST_RATE}"
    for path in folder.rglob("*"):
        assert not path.is_file() or b"0.0123" not in path.read_bytes() or path.suffix == ".ckpt"


CONFIGURES = """
from lightning.pytorch.callbacks import LearningRateMonitor, Timer
from kdcore.hookspecs import hookimpl

@hookimpl
def kdcore_configure(run):
    run.add_callback(Timer(), why="to know how long it takes")
    if run.stage == "distil":
        run.set_trainer("gradient_clip_val", 1.0, why="kl may be steep")
"""


def test_what_plugins_change_is_said_and_written_down(workshop: Workshop) -> None:
    plugin = workshop.write("configures.py", CONFIGURES)
    result = workshop.fit("--plugin", plugin)
    clip = "set trainer.gradient_clip_val = 1.0: kl may be steep"
    assert f"stage `distil`: a plugin {clip}" in result.out
    timer = "added callback Timer: to know how long it takes"
    assert workshop.record()["configured"] == {"teach": [timer], "alone": [timer], "distil": [timer, clip]}


def test_a_run_that_another_process_holds_is_not_joined(workshop: Workshop) -> None:
    workshop.fit("--stage", "teach")
    (first,) = workshop.folders()
    holder = RunFolder(first)
    assert holder.lock()
    workshop.fit("--stage", "teach")
    assert len(workshop.folders()) == 2
    holder.release()


def test_a_failed_run_lets_go_of_its_folder(workshop: Workshop) -> None:
    assert workshop.kdcore("fit", "--stage", "distil").code == 1
    result = workshop.fit("--stage", "teach")
    assert f"resuming {workshop.folders()[0]}" in result.out
    assert len(workshop.folders()) == 1


def test_ranks_of_another_launcher_are_refused(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kdcore.run.fit.rank", lambda: 1)
    result = workshop.kdcore("fit")
    assert result.code == 1
    assert (
        "rank 1 was not told the run folder: start one process and let `trainer.devices` start the others" in result.err
    )
