from __future__ import annotations

from itertools import count
from pathlib import Path

import pytest
import torch

from kdcore.assemble import BuiltStage, assemble
from kdcore.build import Builder
from kdcore.plugins import Plugins
from kdcore.recipe.check import read
from kdcore.recipe.schema import Recipe
from kdcore.testing.pytest_plugin import runner  # which pytest finds by itself where kdcore is installed

__all__ = ["BASE", "Lab", "lab", "runner"]

torch.set_num_threads(1)  # for tensors this small two only wait for each other

BASE = """\
kdcore: 1
name: lab
task: {use: graph.nodes}
data: {use: graph.nodes, source: {use: graph.digits}}
models:
  teacher: {use: graph.gnn, width: 16}
  student: {use: graph.mlp, width: 16}
stages:
  teach: {train: teacher, losses: {ce: {use: cross_entropy}}}
  distil: {train: student, teachers: [teacher]}
losses: {kd: {use: kl}}
optimizer: {use: graph.adam}
trainer: {max_epochs: 1, enable_progress_bar: false}
logger: null
"""


class Lab:
    """Recipes as text, made into stages."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.plugins = Plugins()
        self._numbers = count()

    def write(self, text: str = BASE) -> Path:
        path = self.folder / f"recipe{next(self._numbers)}.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    def read(self, *overrides: str, text: str = BASE) -> Recipe:
        return read([self.write(text)], overrides, self.plugins)

    def builder(self, *overrides: str, text: str = BASE) -> Builder:
        recipe = self.read(*overrides, text=text)
        return Builder(recipe, self.plugins, recipe.seed, self.folder, lambda line: None)

    def stage(self, name: str, *overrides: str, text: str = BASE) -> BuiltStage:
        builder = self.builder(*overrides, text=text)
        return assemble(builder, builder.recipe.stages[name])


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path)
