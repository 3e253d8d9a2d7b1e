"""What may import what: floors without torch, and the picture that import-linter checks."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HEAVY = ("torch", "lightning", "numpy", "wandb", "matplotlib", "scipy", "torchmetrics", "safetensors")
LIGHT = [
    "kdcore",
    "kdcore.errors",
    "kdcore.hookspecs",
    "kdcore.signals",
    "kdcore.schedules",
    "kdcore.registry",
    "kdcore.builtin",
    "kdcore.discovery",
    "kdcore.isolation",
    "kdcore.plugins",
    "kdcore.doctor",
    "kdcore.new_recipe",
    "kdcore.cli",
    *sorted(f"kdcore.recipe.{path.stem}" for path in (ROOT / "kdcore" / "recipe").glob("[!_]*.py")),
]


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)


def heavy_after(code: str) -> str:
    done = run(f"import sys\n{code}\nprint(*[name for name in {HEAVY} if name in sys.modules], file=sys.stderr)")
    assert done.returncode == 0, done.stderr
    return done.stderr.splitlines()[-1]


def test_the_light_floors_import_nothing_heavy() -> None:
    assert heavy_after("\n".join(f"import {module}" for module in LIGHT)) == ""


@pytest.mark.parametrize(
    "code",
    [
        "from kdcore.plugins import Plugins; assert Plugins().describe()[0]['components']",
        "from kdcore.plugins import Plugins; from kdcore.new_recipe import new_recipe\n"
        "assert new_recipe('classify', teacher=None, data=None, plugins=Plugins())",
    ],
)
def test_describing_and_writing_import_nothing_heavy(code: str) -> None:
    assert heavy_after(code) == ""


def test_the_check_can_fail() -> None:
    assert heavy_after("import numpy") == "numpy"


def layers() -> list[str]:
    linter = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]
    return next(contract["layers"] for contract in linter["contracts"] if contract["type"] == "layers")


def test_every_module_has_a_floor() -> None:
    placed = {name.strip(" ()\n") for floor in layers() for name in floor.replace("|", ":").split(":")}
    modules = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for path in (ROOT / "kdcore").rglob("*.py")
        if path.name != "__init__.py"
    ]

    homeless = [module for module in modules if not any(f"{module}.".startswith(f"{name}.") for name in placed)]

    assert homeless == [], "give each a floor in [tool.importlinter] of pyproject.toml"
