"""Writes fake installed distributions: dist-info, entry points and a module, in a folder that goes on ``sys.path``."""

from __future__ import annotations

import sys
import textwrap
from importlib.metadata import Distribution
from pathlib import Path
from typing import Any

import pytest

from kdcore import discovery
from kdcore.errors import Problem
from kdcore.plugins import Plugins
from kdcore.registry import Component

HEALTHY = """
    from kdcore.hookspecs import hookimpl

    KDCORE_API = 1

    @hookimpl
    def kdcore_register(add):
        add("loss", "fgd", "{package}.losses:FGD")
        add("model", "yolo", "{package}.losses:yolo")
"""
LOSSES = '''
    class FGD:
        """Focal and global distillation."""

        needs = frozenset({"student.tap.neck", "teacher.tap.neck"})

        def __init__(self, *, alpha: float = 0.5, beta: float) -> None:
            self.alpha = alpha

    def yolo(*, keys: int = 3) -> object:
        """A small detector."""
        return object()
'''


class PluginFactory:
    """Installs plugins for one test; what they import is forgotten afterwards."""

    def __init__(self, site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.site = site
        self._monkeypatch = monkeypatch
        monkeypatch.syspath_prepend(str(site))
        # plugins that are really installed are not what these tests are about
        real = discovery.distributions
        monkeypatch.setattr(discovery, "distributions", lambda: [one for one in real() if self._is_fake(one)])
        monkeypatch.delenv("KDCORE_PLUGINS", raising=False)
        monkeypatch.delenv("KDCORE_TRACE", raising=False)

    def _is_fake(self, distribution: Distribution) -> bool:
        declares = "[kdcore]" in (distribution.read_text("entry_points.txt") or "")
        return not declares or self.site.parent in Path(str(distribution.locate_file(""))).parents

    def install(
        self,
        name: str,
        code: str = HEALTHY,
        *,
        distribution: str = "",
        version: str = "1.0",
        value: str = "",
        site: Path | None = None,
        entry_points: str = "",
    ) -> str:
        """Write distribution ``kdcore-NAME`` with the package ``kdcore_NAME``; returns the package's name."""
        distribution = distribution or f"kdcore-{name}"
        package = f"kdcore_{name}"
        site = site or self.site
        self.write(f"{package}/__init__.py", "", site=site)
        self.write(f"{package}/plugin.py", code.replace("{package}", package), site=site)
        self.write(f"{package}/losses.py", LOSSES, site=site)
        info = f"{distribution.replace('-', '_')}-{version}.dist-info"
        self.write(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n", site=site)
        text = entry_points or f"[kdcore]\n{name} = {value or f'{package}.plugin'}\n"
        self.write(f"{info}/entry_points.txt", text, site=site)
        return package

    def write(self, path: str, text: str, *, site: Path | None = None) -> Path:
        """Write a file below the site folder."""
        file = (site or self.site) / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(textwrap.dedent(text), encoding="utf-8")
        return file

    def add_site(self, name: str) -> Path:
        """One more folder, searched before the others."""
        site = self.site.parent / name
        site.mkdir()
        self._monkeypatch.syspath_prepend(str(site))
        return site

    def forget(self) -> None:
        """Drop what the fake plugins have imported, so that the next test may reuse their names."""
        for module in [name for name in sys.modules if name.startswith("kdcore_")]:
            del sys.modules[module]


def problem(found: Component | Problem) -> str:
    assert isinstance(found, Problem), found
    return str(found)


def described(name: str) -> dict[str, Any]:
    return {item["name"]: item for item in Plugins().describe()}[name]
