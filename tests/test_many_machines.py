"""What docs/many-machines.md says is done: its commands are consistent, torchrun works, a killed run is taken up."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from workshop import STOP, Workshop, weights

from kdcore.errors import RecipeError
from kdcore.plugins import Plugins
from kdcore.recipe import check

TEXT = (Path(__file__).parents[1] / "docs" / "many-machines.md").read_text(encoding="utf-8")
QUICK = (
    "trainer.max_epochs=2", "stages.teach.trainer={max_epochs: 1}", "data={use: digits, batch_size: 100, labels: 200}",
    "models.teacher.width=4", "trainer.enable_progress_bar=false", "logger=null",
)  # fmt: skip
"""What makes the quickstart a matter of seconds."""


def blocks() -> list[str]:
    return re.findall(r"```sh\n(.*?)```", TEXT, re.DOTALL)


def words(text: str) -> list[str]:
    return shlex.split(text.replace("\\\n", " "), comments=True)


def option(text: str, name: str) -> str:
    """The value of an option or override, wherever it stands."""
    (found,) = re.findall(rf"(?<![\w.]){re.escape(name)}[= ](\S+)", text)
    return str(found)


def torchrun(*given: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """``torchrun`` of the environment that the tests run in."""
    started_by_others = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "KDCORE_RUN_FOLDER")
    clean = {key: value for key, value in os.environ.items() if key not in started_by_others}
    return subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", *given],
        env=clean | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[1])} | environment,
        cwd=folder, capture_output=True, text=True, timeout=270, check=False,
    )  # fmt: skip


def test_a_slurm_file_starts_as_many_processes_as_the_trainer_expects() -> None:
    (job,) = [text for text in blocks() if "#SBATCH" in text]

    assert option(job, "--ntasks-per-node") == option(job, "--gpus-per-node") == option(job, "trainer.devices")
    assert option(job, "--nodes") == option(job, "trainer.num_nodes")
    assert "--requeue" in job
    assert "--signal" not in job
    assert job.strip().splitlines()[-1].startswith("srun ")


def test_torchrun_starts_as_many_processes_as_the_trainer_expects() -> None:
    several, one = [text for text in blocks() if text.startswith("torchrun")]

    assert option(several, "--nproc-per-node") == option(several, "trainer.devices")
    assert option(several, "--nnodes") == option(several, "trainer.num_nodes")
    assert option(one, "--nproc-per-node") == option(one, "trainer.devices")


def test_each_strategy_that_cuts_nets_is_refused_as_the_page_says(tmp_path: Path) -> None:
    (named,) = re.findall(r"\*\*Strategies that cut nets into pieces\*\* \(([^)]+)\)", TEXT)
    recipe = Workshop(tmp_path).recipe

    for strategy in re.findall(r"`(\w+)`", named):
        with pytest.raises(RecipeError, match="cuts nets into pieces"):
            check.read([recipe], [f"trainer.strategy={strategy}"], Plugins())
    check.read([recipe], ["trainer.strategy=ddp_find_unused_parameters_true"], Plugins())


@pytest.mark.slow
def test_the_torchrun_command_of_the_page_runs(tmp_path: Path) -> None:
    (command,) = [text for text in blocks() if text.startswith("torchrun --standalone")]

    done = torchrun(*words(command)[1:], *QUICK, folder=tmp_path)

    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == len(set(lines)), done.stdout  # one process speaks
    (report,) = (tmp_path / "runs" / "quickstart").glob("*/report.json")
    assert lines[0] == f"run folder: {report.parent.relative_to(tmp_path)}"
    ranks = torch.load(report.parent / "distil" / "last.ckpt", weights_only=True)["rng"]
    assert len(ranks) == 2


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_processes_that_were_killed_end_with_the_weights_of_two_that_were_not(tmp_path: Path) -> None:
    killed, whole = Workshop(tmp_path / "killed"), Workshop(tmp_path / "whole")
    for one in (killed, whole):
        one.write("stop.py", STOP)
    fit = (
        "--standalone", "--nproc-per-node", "2", "-m", "kdcore", "fit", "tiny.yaml", "--plugin", "stop.py",
        "--no-alone", "models.student={use: mlp, hidden: [8], dropout: 0.5}", "callbacks={stop: {use: local.stop}}",
        "trainer.devices=2", "trainer.strategy=ddp",
    )  # fmt: skip

    first = torchrun(*fit, folder=killed.path, STOP_AT="distil:batch:6")  # the second of its epoch
    second = torchrun(*fit, folder=killed.path)
    through = torchrun(*fit, folder=whole.path)

    assert first.returncode != 0
    assert second.returncode == through.returncode == 0, second.stderr + through.stderr
    (folder,), (wanted,) = killed.folders(), whole.folders()
    assert f"resuming runs/tiny/{folder.name}" in second.stdout
    assert "stage `teach`: is finished" in second.stdout
    assert "stage `distil`: goes on after step 4" in second.stdout
    ours, theirs = weights(folder), weights(wanted)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
