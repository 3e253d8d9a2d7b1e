"""The site, as Sphinx builds it: `make docs`. Pages are taken from where they lie, so links hold in both places."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sphinx.application import Sphinx

ROOT = Path(__file__).parents[1]

project = "kdcore"
html_title = "kdcore"
extensions = ["myst_parser"]
root_doc = "README"
include_patterns = ["README.md", "CHANGELOG.md", "docs/*.md", "plugins/*/README.md"]
exclude_patterns = [".*", "build", "dist", "runs", "wandb"]

NAVIGATION: Mapping[str, list[str]] = {
    "First steps": ["docs/recipe", "docs/report", "docs/many-machines"],
    "Your own components": [
        "docs/writing-a-loss",
        "docs/writing-a-plugin",
        "docs/kinds",
        "docs/hooks",
        "docs/testing",
    ],
    "Plugins": sorted(f"plugins/{path.parent.name}/README" for path in ROOT.glob("plugins/*/README.md")),
    "About kdcore": ["docs/decisions", "CHANGELOG"],
}
"""The order in which a newcomer wants them; the README is the first page."""

myst_heading_anchors = 4
highlight_language = "text"  # of a block of code that names none

html_theme = "furo"
html_extra_path = ["site/index.html"]
html_static_path = ["site/style.css"]
html_css_files = ["style.css"]
html_copy_source = False
html_show_copyright = False


def setup(app: Sphinx) -> None:
    app.connect("source-read", _navigate)


def _navigate(app: Sphinx, page: str, source: list[str]) -> None:
    """Put the navigation below the README, which as a file says nothing of it."""
    if page == root_doc:
        for title, pages in NAVIGATION.items():
            entries = "\n".join(pages)
            source[0] += f"\n```{{toctree}}\n:hidden:\n:caption: {title}\n\n{entries}\n```\n"
