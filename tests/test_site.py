"""The site: every page is in the navigation, and it is built whole, without anything from elsewhere."""

from __future__ import annotations

import re
import runpy
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
FETCHED = re.compile(
    r"""<(?:script|img|iframe|source)[^>]*\bsrc=["'](?:https?:)?//[^"']+"""
    r"""|<link[^>]*\brel=["'](?:stylesheet|preload|preconnect|icon)["'][^>]*\bhref=["'](?:https?:)?//[^"']+"""
    r"""|url\(\s*["']?(?:https?:)?//[^)]+|@import\s+["'](?:https?:)?//[^"']+"""
)
"""What a browser would fetch from another place when it shows a page; links to follow are none."""


@pytest.fixture(scope="module")
def conf() -> dict[str, Any]:
    return runpy.run_path(str(ROOT / "docs" / "conf.py"))


def pages(conf: dict[str, Any]) -> Iterator[str]:
    for pattern in conf["include_patterns"]:
        for path in sorted(ROOT.glob(pattern)):
            yield path.relative_to(ROOT).with_suffix("").as_posix()


def test_every_page_is_in_the_navigation_once(conf: dict[str, Any]) -> None:
    listed = [conf["root_doc"], *(page for part in conf["NAVIGATION"].values() for page in part)]

    assert sorted(listed) == sorted(pages(conf))
    assert {f"docs/{path.stem}" for path in (ROOT / "docs").glob("*.md")} < set(listed)
    assert {f"plugins/{path.name}/README" for path in (ROOT / "plugins").iterdir() if path.is_dir()} < set(listed)


def test_only_the_first_page_gets_the_navigation(conf: dict[str, Any]) -> None:
    first, other = ["# kdcore\n"], ["# Hooks\n"]

    conf["_navigate"](None, "README", first)
    conf["_navigate"](None, "docs/hooks", other)

    assert first[0].startswith("# kdcore\n")
    assert first[0].count("```{toctree}") == len(conf["NAVIGATION"])
    assert "\n:caption: First steps\n\ndocs/recipe\n" in first[0]
    assert other == ["# Hooks\n"]


@pytest.mark.parametrize(
    "text",
    [
        '<script src="https://cdn.jsdelivr.net/npm/mermaid.js"></script>',
        "<img alt='x' src='//example.org/x.png'>",
        '<link rel="stylesheet" href="https://fonts.googleapis.com/css">',
        "body { background: url('https://example.org/x.png') }",
        '@import "https://example.org/x.css";',
    ],
)
def test_what_a_browser_would_fetch_is_found(text: str) -> None:
    assert FETCHED.search(text)
    assert not FETCHED.search('<a href="https://arxiv.org/abs/1503.02531">1503.02531</a>')


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory, conf: dict[str, Any]) -> Path:
    """A copy of the pages and what they show."""
    for module in ("sphinx", "myst_parser", "furo"):
        pytest.importorskip(module, reason="the extra `docs` is not installed")
    folder = tmp_path_factory.mktemp("sources")
    for pattern in (*conf["include_patterns"], "docs/*.p*", "docs/*.svg", "docs/site/*", "plugins/*/docs/*"):
        for path in ROOT.glob(pattern):
            target = folder / path.relative_to(ROOT)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target)
    return folder


def build(sources: Path, to: Path) -> subprocess.CompletedProcess[str]:
    """As `make docs` builds it."""
    (line,) = re.findall(r"-m sphinx (.*) --doctree-dir \S+ \. \S+$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    command = [sys.executable, "-m", "sphinx", *line.split(), "--doctree-dir", str(to / "doctrees"), ".", str(to)]
    return subprocess.run(command, cwd=sources, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_the_site_is_whole_and_fetches_nothing(sources: Path, tmp_path: Path, conf: dict[str, Any]) -> None:
    done = build(sources, tmp_path)

    assert done.returncode == 0, done.stderr
    assert 'url=README.html"' in (tmp_path / "index.html").read_text(encoding="utf-8")
    for page in pages(conf):
        text = (tmp_path / f"{page}.html").read_text(encoding="utf-8")
        assert not FETCHED.search(text), f"{page}: {FETCHED.search(text)}"
        assert "From one GPU to many machines" in text, f"{page} is outside of the navigation"
    for style in (tmp_path / "_static").rglob("*.css"):
        assert not FETCHED.search(style.read_text(encoding="utf-8")), style.name
    hooks = (tmp_path / "docs" / "hooks.html").read_text(encoding="utf-8")
    assert 'href="kinds.html"' in hooks  # a link to a file on the code host is one to a page here
    assert 'href="../../README.html"' in (tmp_path / "plugins" / "kdcore-vision" / "README.html").read_text("utf-8")


@pytest.mark.slow
def test_a_broken_link_stops_the_build(sources: Path, tmp_path: Path) -> None:
    page = sources / "docs" / "report.md"
    before = page.read_text(encoding="utf-8")
    page.write_text(f"{before}\n[one](gone.md), [two](recipe.md#nowhere)\n", encoding="utf-8")
    done = build(sources, tmp_path)
    page.write_text(before, encoding="utf-8")

    assert done.returncode != 0
    assert re.search(r"docs/report\.md:\d+: .*gone\.md", done.stderr)
    assert re.search(r"docs/report\.md:\d+: .*nowhere", done.stderr)
