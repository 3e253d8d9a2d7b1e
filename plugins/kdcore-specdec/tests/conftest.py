from __future__ import annotations

from itertools import count
from pathlib import Path

import pytest
import torch

from kdcore.assemble import BuiltStage, assemble
from kdcore.build import Builder
from kdcore.errors import RecipeError
from kdcore.plugins import Plugins
from kdcore.recipe.check import read
from kdcore.recipe.schema import Recipe
from kdcore.testing.pytest_plugin import runner  # which pytest finds by itself where kdcore is installed

__all__ = ["BASE", "Lab", "lab", "runner"]

torch.set_num_threads(1)  # for tensors this small two only wait for each other

BASE = """\
kdcore: 1
name: lab
task: {use: specdec.causal_lm}
data: {use: specdec.text, path: corpus, length: 24, batch_size: 4, validation: 0.2, test: 0.2}
models:
  target: {use: specdec.llama, layers: 3, width: 16, heads: 2}
  draft: {use: specdec.llama, layers: 1, width: 16, heads: 2}
stages:
  teach: {train: target, losses: {ce: {use: specdec.cross_entropy}}}
  distil: {train: draft, teachers: [target]}
losses: {kd: {use: specdec.divergence}}
trainer: {max_steps: 2, val_check_interval: 2, enable_progress_bar: false}
logger: null
"""


class Lab:
    """Recipes as text, made into stages, beside a small folder of text files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.plugins = Plugins()
        self._numbers = count()
        corpus = folder / "corpus"
        corpus.mkdir()
        for number in range(30):
            (corpus / f"{number:02}.txt").write_text(f"file {number}: the quick brown fox, {number * 7} times")

    def write(self, text: str = BASE) -> Path:
        path = self.folder / f"recipe{next(self._numbers)}.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    def read(self, *overrides: str, text: str = BASE) -> Recipe:
        return read([self.write(text)], overrides, self.plugins)

    def problems(self, *overrides: str, text: str = BASE) -> list[str]:
        """What `check` says, as ``path: message``."""
        try:
            found = self.plugins.check_recipe(self.read(*overrides, text=text))
        except RecipeError as error:
            found = list(error.problems)
        return [f"{problem.path}: {problem.message.removeprefix('specdec: ')}" for problem in found]

    def builder(self, *overrides: str, text: str = BASE) -> Builder:
        recipe = self.read(*overrides, text=text)
        return Builder(recipe, self.plugins, recipe.seed, self.folder, lambda line: None)

    def stage(self, name: str, *overrides: str, text: str = BASE) -> BuiltStage:
        builder = self.builder(*overrides, text=text)
        return assemble(builder, builder.recipe.stages[name])


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path)
