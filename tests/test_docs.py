"""The reference pages are checked against the code, so that they cannot drift."""

from __future__ import annotations

import importlib.util
import inspect
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

from kdcore import hookspecs
from kdcore.discovery import FIRST_PARTY
from kdcore.hookspecs import KDCORE_API, KINDS

DOCS = Path(__file__).parents[1] / "docs"
HOOKS = sorted(name for name in vars(hookspecs) if name.startswith("kdcore_"))


def page(name: str) -> str:
    return (DOCS / name).read_text(encoding="utf-8")


def prose(text: str) -> str:
    """Markdown and reStructuredText quote code differently; lines are broken differently."""
    return " ".join(text.replace("``", "`").split())


@pytest.fixture(scope="module")
def generate() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_generate", DOCS / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def headings() -> dict[str, str]:
    """Heading of each hook -> the text below it."""
    parts = re.split(r"^#+ (.*)$", page("hooks.md"), flags=re.MULTILINE)
    return {title: body for title, body in zip(parts[1::2], parts[2::2], strict=True) if title.startswith("`kdcore_")}


@pytest.mark.parametrize("name", HOOKS)
def test_each_hook_stands_there_with_its_signature_and_first_line(name: str) -> None:
    hook = getattr(hookspecs, name)
    title = f"`{name}{inspect.signature(hook)}`".replace("'", "")

    assert title in headings(), f"docs/hooks.md has no heading {title}"
    assert prose(headings()[title]).startswith(prose(inspect.getdoc(hook) or "").partition("\n")[0])


def test_no_other_hook_is_described() -> None:
    assert sorted(title.strip("`").partition("(")[0] for title in headings()) == HOOKS


@pytest.mark.parametrize("member", [name for name in vars(hookspecs.Run) if not name.startswith("_")])
def test_everything_a_run_offers_is_described(member: str) -> None:
    assert f"`run.{member}" in page("hooks.md")


def test_the_example_has_the_api_number_of_the_code() -> None:
    assert re.findall(r"^KDCORE_API = (\d+)$", page("hooks.md"), re.MULTILINE) == [str(KDCORE_API)]
    assert "detection" in FIRST_PARTY


def test_the_example_plugin_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from plugin_factory import PluginFactory

    from kdcore.plugins import Plugins
    from kdcore.registry import Component

    (code,) = re.findall(r"```python\n(.*?)```", page("hooks.md"), re.DOTALL)
    factory = PluginFactory(tmp_path / "site", monkeypatch)
    factory.install("detection", code)

    found = Plugins().find("loss", "detection.fgd")

    factory.forget()
    assert isinstance(found, Component), found
    assert found.target == "kdcore_detection.losses.fgd:FGD"


def test_each_kind_has_one_row_in_order() -> None:
    table = page("kinds.md").partition("## Core components")[0]

    assert tuple(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)) == KINDS


def test_the_core_components_are_up_to_date(generate: ModuleType) -> None:
    expected = generate.core_components()

    assert generate.written(page("kinds.md")) == expected, "out of date; run: python docs/generate.py"


def test_every_core_component_is_in_the_table(generate: ModuleType) -> None:
    from kdcore.plugins import Plugins

    rows = re.findall(r"^\| (\w+) \| `(\w+)` \|", generate.core_components(), re.MULTILINE)

    assert sorted(rows) == sorted((item.kind, item.name) for item in Plugins().registry)
    assert len(rows) > 20


def test_renewing_changes_only_what_stands_between_the_marks(generate: ModuleType) -> None:
    stale = f"above\n{generate.BEGIN}stale\n{generate.END}below\n"

    assert generate.renew(stale) == f"above\n{generate.BEGIN}{generate.core_components()}{generate.END}below\n"
    assert generate.written(stale) == "stale\n"


def test_the_generator_needs_no_torch() -> None:
    import subprocess

    code = "import runpy, sys; runpy.run_path(sys.argv[1])['core_components'](); assert 'torch' not in sys.modules"
    command = [sys.executable, "-c", code, str(DOCS / "generate.py")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
