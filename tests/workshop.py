"""A folder with a tiny recipe in it, and the command line as a person would use it there."""

from __future__ import annotations

import contextlib
import io
import json
import multiprocessing
import os
import signal
import sys
import traceback
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from safetensors.torch import load_file
from torch import Tensor

from kdcore.cli import run

TINY = """\
kdcore: 1
name: tiny
task: {use: classify}
data: {use: digits, batch_size: 250}
models:
  teacher: {use: mlp, hidden: [16]}
  student: {use: mlp, hidden: [4]}
  alone: ${models.student}
stages:
  teach: {train: teacher, losses: {ce: {use: cross_entropy}}, once: true}
  alone: {train: alone, losses: {ce: {use: cross_entropy}}}
  distil: {train: student, teachers: [teacher]}
losses:
  ce: {use: cross_entropy, weight: 0.5}
  kd: {use: kl, weight: 0.5}
metrics: {accuracy: {use: accuracy}}
optimizer: {use: adamw, lr: 0.01}
trainer: {max_epochs: 2, accelerator: cpu, log_every_n_steps: 1}
logger: null
"""
"""Three stages of two epochs of four steps: half a second in all."""

STOP = '''
"""A callback that ends the process, or raises, at one place of one stage, named by the environment."""
import os
import signal
import time

from lightning.pytorch.callbacks import Callback

from kdcore.hookspecs import hookimpl


class Stop(Callback):
    def __init__(self, *, often: bool = False) -> None:
        self.often = often

    def at(self, hook, trainer, module):
        if os.environ.get("STOP_AT") == f"{module.stage_name}:{hook}:{trainer.global_step}":
            if os.environ.get("STOP_HOW") == "wait":
                open("waiting", "w").close()
                time.sleep(60)
            os.kill(os.getpid(), getattr(signal, os.environ.get("STOP_HOW", "SIGKILL")))

    def on_train_start(self, trainer, module):
        if self.often:  # a checkpoint after every window, not only every ten minutes
            for callback in trainer.checkpoint_callbacks:
                callback._seconds = 0.0

    def on_before_optimizer_step(self, trainer, module, optimizer):
        self.at("step", trainer, module)

    def on_train_batch_end(self, trainer, module, *args):
        self.at("batch", trainer, module)

    def on_validation_batch_end(self, trainer, module, *args):
        self.at("validation", trainer, module)

    def on_fit_end(self, trainer, module):
        self.at("end", trainer, module)


@hookimpl
def kdcore_register(add):
    add("callback", "stop", Stop)
'''


@dataclass
class Result:
    """What a command did.

    Attributes:
        code: the exit code; minus the signal's number where one killed it.
        out: standard output, empty for a command in a process of its own.
        err: standard error, likewise.
    """

    code: int
    out: str = ""
    err: str = ""

    @property
    def last(self) -> str:
        """The last line a person sees."""
        return self.out.rstrip().rpartition("\n")[2]


@dataclass
class Workshop:
    """``path`` holds ``tiny.yaml`` and, below ``runs``, everything that is run."""

    path: Path
    recipe: Path = field(init=False)
    runs: Path = field(init=False)

    def __post_init__(self) -> None:
        self.path.mkdir(parents=True, exist_ok=True)
        self.recipe, self.runs = self.path / "tiny.yaml", self.path / "runs"
        self.recipe.write_text(TINY, encoding="utf-8")

    def write(self, name: str, text: str) -> Path:
        """A file of this folder."""
        (self.path / name).write_text(text, encoding="utf-8")
        return self.path / name

    def kdcore(self, verb: str, *words: str | Path) -> Result:
        """``kdcore VERB tiny.yaml WORDS --runs runs``, in this process; a recipe among the words replaces ours."""
        return in_process(verb, *self._words(words))

    def fit(self, *words: str | Path) -> Result:
        """A ``fit`` that must succeed."""
        result = self.kdcore("fit", *words)
        assert result.code == 0, result.err
        return result

    def start(self, verb: str, *words: str | Path, **environment: str) -> multiprocessing.process.BaseProcess:
        """The same in a process of its own, which may be killed; it works in this folder."""
        arguments = [verb, *map(str, self._words(words))]
        process = _server().Process(target=_command, args=(arguments, str(self.path), environment))
        process.start()
        return process

    def apart(self, verb: str, *words: str | Path, **environment: str) -> Result:
        """As :meth:`start`, and wait for its end."""
        process = self.start(verb, *words, **environment)
        process.join(120)
        assert process.exitcode is not None, "it hangs"
        return Result(process.exitcode, self.read("out"), self.read("err"))

    def read(self, name: str) -> str:
        path = self.path / name
        return path.read_text(encoding="utf-8") if path.exists() else ""

    def folders(self, name: str = "tiny") -> list[Path]:
        """The run folders, oldest first."""
        root = self.runs / name
        return sorted(path for path in root.iterdir() if path.is_dir()) if root.is_dir() else []

    def report(self) -> dict[str, Any]:
        """Of the newest run."""
        found: dict[str, Any] = json.loads((self.folders()[-1] / "report.json").read_text(encoding="utf-8"))
        return found

    def record(self) -> dict[str, Any]:
        """``run.yaml`` of the newest run."""
        found: dict[str, Any] = yaml.safe_load((self.folders()[-1] / "run.yaml").read_text(encoding="utf-8"))
        return found

    def _words(self, words: tuple[str | Path, ...]) -> list[str | Path]:
        given = any(str(word).endswith(".yaml") or (Path(word) / "run.yaml").is_file() for word in words)
        return [*([] if given else [self.recipe]), *words, "--runs", self.runs]


def in_process(*words: str | Path) -> Result:
    """One command line, in this process."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = run([str(word) for word in words])
        except SystemExit as stop:
            code = int(stop.code or 0)
        finally:
            signal.signal(signal.SIGINT, signal.default_int_handler)  # Lightning ignores it after the first one
    return Result(code, out.getvalue(), err.getvalue())


def weights(folder: Path) -> dict[str, Tensor]:
    """Every tensor of every model that a run left, by stage, model and name."""
    return {
        f"{file.parent.relative_to(folder)}/{file.stem}/{name}": tensor
        for file in sorted(folder.rglob("*.safetensors"))
        for name, tensor in load_file(file).items()
    }


def _command(words: list[str], folder: str, environment: dict[str, str]) -> None:
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        del os.environ[name]  # a service of W&B that another test started, which would know a killed run as running
    os.environ.update(environment)
    os.chdir(folder)
    with Path("out").open("w", buffering=1) as out, Path("err").open("w", buffering=1) as err:
        sys.stdout, sys.stderr = out, err
        try:
            code = run(words)
        except BaseException:  # what it died of must be seen before the files are closed
            traceback.print_exc(file=err)
            code = 1
    os._exit(code)


def _server() -> Any:
    """A process that has imported everything once and forks for each command: that saves eight seconds each time."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["workshop", "kdcore.run.fit", "sklearn.datasets"])
    return context
