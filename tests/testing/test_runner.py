"""Recipes run in process: what the runner gives back, where things go, what it says of failures."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import torch
from workshop import TINY

from kdcore.errors import RecipeError, RunError
from kdcore.testing.runner import Runner

LEAKING = """
import os, socket
from lightning.pytorch.callbacks import Callback
from kdcore.hookspecs import hookimpl


class Leak(Callback):
    def on_fit_start(self, trainer, module):
        os.environ["KDCORE_TEST_LEAK"] = "1"
        try:
            socket.create_connection(("example.com", 443))
        except OSError:
            pass


@hookimpl
def kdcore_register(add):
    add("callback", "leak", Leak)
"""


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Runner:
    """One that has run a recipe."""
    made = Runner(tmp_path_factory.mktemp("runner"))
    made.fit(TINY, "--no-alone")
    return made


def test_a_fit_gives_its_folder_and_report(shared: Runner):
    before = dict(os.environ)
    threads = torch.get_num_threads()
    run = shared.fit(TINY, "--fresh", "models.student.hidden=[2]", "stages={distil: {train: student}}", "~losses.kd")
    assert run.code == 0
    assert run.folder.parent == shared.runs / "tiny"
    assert set(run.report["models"]) >= {"student"}
    assert "report:" in run.out
    assert torch.get_num_threads() == threads
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert {name: before.get(name) for name in ("WANDB_MODE", "WANDB_SILENT")} == {
        name: os.environ.get(name) for name in ("WANDB_MODE", "WANDB_SILENT")
    }
    shared.finish()


def test_a_fit_that_writes_no_report_says_so(shared: Runner):
    said = r"^it wrote no new report\.json: a run that was finished before, or of some stages alone \(`--stage`\), has "
    with pytest.raises(AssertionError, match=said):
        shared.fit(TINY, "name=part", "--stage", "teach")


def test_text_becomes_a_file_of_the_folder(shared: Runner):
    assert (shared.folder / "recipe0.yaml").read_text(encoding="utf-8") == TINY


@pytest.mark.parametrize("recipe", ["quickstart", TINY, Path(__file__).parents[2] / "recipes" / "quickstart.yaml"])
def test_a_sound_recipe_by_name_by_text_and_by_path(tmp_path: Path, recipe: str | Path):
    assert Runner(tmp_path).check(recipe).out.rstrip().endswith("the recipe is sound")


def test_recipes_laid_over_each_other(tmp_path: Path):
    said = Runner(tmp_path).check([TINY, "stages:\n  last: {train: student}\n"]).out
    assert "last: train student" in said


def test_an_unsound_recipe_is_said_as_a_person_would_see_it(tmp_path: Path):
    with pytest.raises(AssertionError) as caught:
        Runner(tmp_path).check(TINY, "losses.kd.temperatur=2")
    assert str(caught.value).startswith("`kdcore check` ended with exit code 2 and said:\n")
    assert "did you mean `temperature`?" in str(caught.value)


def test_a_command_that_may_fail(tmp_path: Path):
    result = Runner(tmp_path).kdcore("check", "nowhere.yaml")
    assert result.code == 2
    assert "nowhere.yaml" in result.err
    assert Runner(tmp_path).kdcore("check").code == 2  # usage
    assert Runner(tmp_path).kdcore("--help").code == 0


def test_losses_are_probed_on_a_batch_of_the_data(shared: Runner):
    assert shared.probe(TINY) == []
    fading = "losses.kd.weight={use: linear, start: 1, end: 0}"
    assert shared.probe(TINY, fading) == ["loss `kd` has weight 0 at the end of its schedule"]
    with pytest.raises(RunError, match="loss `ce` has no gradient"):
        shared.probe(TINY, "~losses.kd", "stages.distil.freeze={student: ['**']}")


def test_probing_takes_the_last_stage_or_the_one_that_is_named(shared: Runner):
    assert shared.probe(TINY, stage="teach") == []
    with pytest.raises(KeyError):
        shared.probe(TINY, stage="nothing")
    with pytest.raises(RecipeError):
        shared.probe(TINY, "losses.kd.temperatur=2")


def test_what_a_plugin_leaves_behind_fails_the_test_at_its_end(tmp_path: Path):
    runner = Runner(tmp_path)
    (tmp_path / "leaking.py").write_text(LEAKING, encoding="utf-8")
    alone = ("stages={distil: {train: student}}", "~losses.kd", "callbacks.leak={use: local.leak}")
    runner.fit(TINY, *alone, "--plugin", str(tmp_path / "leaking.py"))
    with pytest.raises(AssertionError) as caught:
        runner.finish()
    assert "- something connected to example.com: a test that needs the network fails elsewhere" in str(caught.value)
    assert "- the environment variable KDCORE_TEST_LEAK was set to `1`: put it back" in str(caught.value)
    assert "KDCORE_TEST_LEAK" not in os.environ


@pytest.mark.slow
def test_wandb_writes_into_the_run_folder_only(tmp_path: Path):
    runner = Runner(tmp_path)
    alone = ("stages={distil: {train: student}}", "~losses.kd", "logger={use: wandb, mode: online}")
    run = runner.fit(TINY, *alone)
    assert list(run.folder.glob("**/offline-run-*"))
    runner.finish()
