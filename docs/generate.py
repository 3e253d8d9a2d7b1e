"""Writes the table of core components into docs/kinds.md:   python docs/generate.py"""

from __future__ import annotations

import sys
from pathlib import Path

PAGE = Path(__file__).parent / "kinds.md"
BEGIN, END = "<!-- core components: begin -->\n", "<!-- core components: end -->\n"

sys.path.insert(0, str(PAGE.parents[1]))

from kdcore.hookspecs import KINDS  # noqa: E402
from kdcore.plugins import Plugins  # noqa: E402
from kdcore.registry import Component, Parameter, Registry  # noqa: E402


def core_components() -> str:
    """The table, a row for each component in the order of the kinds."""
    rows = ["| kind | name | what | parameters |", "| --- | --- | --- | --- |"]
    registry = Plugins().registry
    rows += [_row(component) for kind in KINDS for component in _of(registry, kind)]
    return "\n".join(rows) + "\n"


def written(page: str) -> str:
    """What stands between the marks."""
    return page.partition(BEGIN)[2].partition(END)[0]


def renew(page: str) -> str:
    """The page with the table as it should be."""
    head, _, rest = page.partition(BEGIN)
    return head + BEGIN + core_components() + END + rest.partition(END)[2]


def _of(registry: Registry, kind: str) -> list[Component]:
    return [item for item in registry if item.kind == kind and item.plugin == "kdcore"]


def _row(component: Component) -> str:
    what = component.documentation().partition("\n")[0].replace("``", "`").replace("|", "\\|")
    parameters = "<br>".join(f"`{_signature(item)}`" for item in component.parameters().values())
    return f"| {component.kind} | `{component.name}` | {what} | {parameters} |"


def _signature(parameter: Parameter) -> str:
    default = "" if parameter.required else f" = {parameter.default}"
    return f"{parameter.name}: {parameter.annotation}{default}".replace("|", "\\|")


if __name__ == "__main__":
    PAGE.write_text(renew(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
