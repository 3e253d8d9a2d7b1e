"""Runs recipes as a person would, in this process: on one thread of the CPU, offline, in a folder of the test."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

from kdcore.testing.guard import Guard

SETTINGS = (
    "trainer.accelerator=cpu",
    "trainer.devices=1",
    "trainer.enable_progress_bar=false",
    "trainer.log_every_n_steps=1",
)
"""Overrides of every run; those of a test come later and count."""


@dataclass(frozen=True)
class Result:
    """What a command did: its exit code, and what it printed."""

    code: int
    out: str
    err: str


@dataclass(frozen=True)
class Run(Result):
    """A finished ``fit``: also its folder and ``report.json``."""

    folder: Path
    report: dict[str, Any]


class Runner:
    """Runs recipes and watches what they leave behind.

    A recipe is a path, a text with line breaks, the name of one that is shipped (``quickstart``, ``detection.coco``),
    or a list of these, laid over each other. Overrides and options follow: ``runner.fit("quickstart",
    "trainer.max_steps=2", "--no-probe")``.

    Args:
        folder: where recipes given as text, run folders and W&B's own files go.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.guard = Guard()
        self._numbers = count()

    @property
    def runs(self) -> Path:
        """Where run folders go."""
        return self.folder / "runs"

    def fit(self, recipe: str | Path | list[str | Path], *words: str) -> Run:
        """Run a recipe that must succeed.

        Raises:
            AssertionError: it did not; the message holds what it said.
        """
        before = set(self._reports())
        result = self._succeeded("fit", recipe, *SETTINGS, *words)
        new = [path for path in self._reports() if path not in before]
        if not new:
            raise AssertionError(
                "it wrote no new report.json: a run that was finished before, or of some stages alone (`--stage`), has "
                'none. Say `runner.kdcore("fit", ...)`'
            )
        report = max(new, key=lambda path: path.stat().st_mtime_ns)
        return Run(result.code, result.out, result.err, report.parent, json.loads(report.read_text(encoding="utf-8")))

    def check(self, recipe: str | Path | list[str | Path], *words: str) -> Result:
        """Check a recipe that must be sound.

        Raises:
            AssertionError: it is not; the message holds what is wrong.
        """
        return self._succeeded("check", recipe, *words)

    def kdcore(self, verb: str, *words: str | Path) -> Result:
        """Any command line, ``kdcore VERB WORDS``, also one that is expected to fail; ``--runs`` only where given."""
        from kdcore.cli import run

        out, err = io.StringIO(), io.StringIO()
        quiet = contextlib.redirect_stdout(out), contextlib.redirect_stderr(err)
        logs = _wandb_offline() if verb == "fit" else contextlib.nullcontext()
        with self._at_home(), logs, quiet[0], quiet[1]:
            try:
                code = run([verb, *map(str, words)])
            except SystemExit as stop:
                code = int(stop.code or 0)
        return Result(code, out.getvalue(), err.getvalue())

    def probe(self, recipe: str | Path | list[str | Path], *overrides: str, stage: str | None = None) -> list[str]:
        """Check every loss of a stage, by default the last, on one batch of its data: does it teach the student alone?

        Returns:
            Warnings: losses that selected nothing.

        Raises:
            RunError: one does not teach.
            RecipeError: the recipe is wrong.
        """
        from kdcore.assemble import assemble
        from kdcore.build import Builder
        from kdcore.plugins import Plugins
        from kdcore.probe import check_losses
        from kdcore.recipe.arguments import split_arguments
        from kdcore.recipe.check import read

        plugins = Plugins()
        words = [*self._words(recipe), "logger=null", *overrides]
        with self._at_home():
            read_recipe = read(*split_arguments(words, plugins.shipped_recipes()), plugins)
            builder = Builder(read_recipe, plugins, read_recipe.seed, self.runs, lambda line: None)
            built = assemble(builder, read_recipe.stages[stage or list(read_recipe.stages)[-1]])
            try:
                built.data.data.trainer = None
                batch = next(iter(built.data.data.train_dataloader()))
                return check_losses(built.cast, built.losses, batch, built.distiller.prepared)
            finally:
                built.close()

    def finish(self) -> None:
        """Say what was left behind; the fixture calls it after the test.

        Raises:
            AssertionError: a run changed the environment, left hooks on modules, or used the network.
        """
        self.guard.finish()

    def _succeeded(self, verb: str, recipe: str | Path | list[str | Path], *words: str) -> Result:
        result = self.kdcore(verb, *self._words(recipe), *words, "--runs", self.runs)
        if result.code != 0:
            said = "\n".join(part.strip() for part in (result.out, result.err) if part.strip())
            raise AssertionError(f"`kdcore {verb}` ended with exit code {result.code} and said:\n{said}")
        return result

    def _words(self, recipe: str | Path | list[str | Path]) -> list[str]:
        return [self._word(one) for one in (recipe if isinstance(recipe, list) else [recipe])]

    def _word(self, recipe: str | Path) -> str:
        if isinstance(recipe, Path) or "\n" not in recipe:
            return str(recipe)
        path = self.folder / f"recipe{next(self._numbers)}.yaml"
        path.write_text(recipe, encoding="utf-8")
        return str(path)

    def _reports(self) -> list[Path]:
        return list(self.runs.glob("*/*/report.json"))

    @contextmanager
    def _at_home(self) -> Iterator[None]:
        """One thread, W&B offline, the guard standing; then everything as before."""
        threads = torch.get_num_threads()
        offline = {"WANDB_MODE": "offline", "WANDB_SILENT": "true"}
        before = {name: os.environ.get(name) for name in offline}
        os.environ.update(offline)
        torch.set_num_threads(1)
        try:
            with self.guard.watching():
                yield
        finally:
            torch.set_num_threads(threads)
            signal.signal(signal.SIGINT, signal.default_int_handler)  # Lightning ignores it after the first one
            for name, value in before.items():
                if value is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = value


@contextmanager
def _wandb_offline() -> Iterator[None]:
    """Also where a recipe says `mode: online`: its service is a process of its own, which no guard sees."""
    from kdcore.run import loggers

    def offline(*arguments: Any, mode: str = "offline", **more: Any) -> Any:
        return original(*arguments, mode="offline", **more)

    original = loggers.wandb
    with patch.object(loggers, "wandb", offline):
        yield
