"""docs/testing.md: its snippets run, its tables are those of the code."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from kdcore.testing import losses, plugins, tasks
from kdcore.testing.checks import Check
from kdcore.testing.loss_totals import COMPILED
from kdcore.testing.loss_values import reference_check
from kdcore.testing.runner import Runner

PAGE = Path(__file__).parents[2] / "docs" / "testing.md"
TEXT = PAGE.read_text(encoding="utf-8")
SNIPPETS = dict(re.findall(r"```python\n# (\S+)\n(.*?)```", TEXT, re.DOTALL))
TABLES: dict[str, Sequence[Check[Any]]] = {
    "loss": (*losses.CHECKS, reference_check(0.0), *COMPILED),
    "task": tasks.CHECKS,
    "plugin": plugins.CHECKS,
}


def functions(name: str, folder: Path) -> dict[str, Callable[..., None]]:
    """The tests of a snippet, from a file as an author would have it."""
    file = folder / name
    file.write_text(SNIPPETS[name], encoding="utf-8")
    module = ModuleType(file.stem)
    module.__file__ = str(file)
    exec(compile(file.read_text(encoding="utf-8"), file, "exec"), vars(module))
    return {key: value for key, value in vars(module).items() if key.startswith("test_")}


@pytest.mark.parametrize("kind", TABLES)
def test_the_table_of_checks_is_that_of_the_code(kind: str):
    (table,) = re.findall(rf"<!-- checks: {kind} -->\n((?:\|.*\n)+)", TEXT)
    rows = re.findall(r"^\| `(\w+)` \| (.+) \|$", table, re.MULTILINE)
    assert rows == [(check.name, check.promise) for check in TABLES[kind]]


def test_every_snippet_is_run_here():
    assert set(SNIPPETS) == {"test_soft.py", "test_hidden.py", "test_shapes.py", "test_runs.py"}


@pytest.mark.parametrize("name", ["test_soft.py", "test_shapes.py"])
def test_snippets_about_components(name: str, tmp_path: Path):
    for function in functions(name, tmp_path).values():
        function()


def test_the_snippet_that_leaves_checks_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "test_hidden.py").write_text(SNIPPETS["test_hidden.py"], encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    import test_hidden  # type: ignore[import-not-found]  # its class must be in a file, which is read

    test_hidden.test_hidden()


def test_the_snippet_about_runs(tmp_path: Path):
    runner = Runner(tmp_path)
    for function in functions("test_runs.py", tmp_path).values():
        function(runner)
    runner.finish()


def test_the_call_for_a_plugin_is_one_that_exists():
    import inspect

    (call,) = re.findall(r"check_plugin\(\n(.*?)\n    \)", TEXT, re.DOTALL)
    assert set(re.findall(r"^ {8}(\w+)=", call, re.MULTILINE)) < set(inspect.signature(plugins.check_plugin).parameters)


def test_every_sample_is_named():
    from kdcore.testing import samples

    made = [
        name for name, value in vars(samples).items() if getattr(value, "__annotations__", {}).get("return") == "Sample"
    ]
    for name in made:
        if not name.startswith("_"):
            assert f"{name}()`" in TEXT
