"""Writes the package of a plugin, complete and tested: what its author changes bit by bit."""

from __future__ import annotations

import keyword
from pathlib import Path

from kdcore.discovery import FIRST_PARTY, RESERVED, core_version
from kdcore.errors import Problem, RecipeError
from kdcore.hookspecs import KDCORE_API

TEMPLATE = Path(__file__).parent / "templates" / "plugin"
"""Files whose names end in ``.in``, with ``{{name}}`` and the like in them."""

PLACES = {
    "package": "{package}",
    "workflows": ".github/workflows",
    "recipe.yaml": "{name}.yaml",
    "gitignore": ".gitignore",
}
"""What parts of a template's path are called in the new package."""


def new_plugin(name: str, folder: Path) -> list[Path]:
    """Write ``kdcore-NAME`` into a folder that is not there yet.

    Args:
        name: the word that stands before the names of its components.
        folder: of the new package.

    Returns:
        What was written.

    Raises:
        RecipeError: the name cannot be a plugin's, or the folder is there already.
    """
    problem = _refused(name) or (
        Problem(f"{folder} exists already", "choose another folder with --to") if folder.exists() else None
    )
    if problem:
        raise RecipeError([problem])
    words = {
        "name": name,
        "package": f"kdcore_{name}",
        "distribution": f"kdcore-{name.replace('_', '-')}",
        "core": ".".join(core_version().split(".")[:2]),
        "api": str(KDCORE_API),
    }
    written = []
    for source in sorted(TEMPLATE.rglob("*.in")):
        text = source.read_text(encoding="utf-8")
        for word, value in words.items():
            text = text.replace("{{" + word + "}}", value)
        parts = [PLACES.get(part, part) for part in source.relative_to(TEMPLATE).with_suffix("").parts]
        path = folder.joinpath(*(part.format(**words) for part in parts))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        written.append(path)
    (folder / words["package"] / "py.typed").touch()
    return [*written, folder / words["package"] / "py.typed"]


def _refused(name: str) -> Problem | None:
    """Why a plugin cannot have this name."""
    better = "".join(letter if letter.isalnum() else "_" for letter in name.lower()).strip("_").lstrip("0123456789_")
    if not name.isidentifier() or not name.isascii() or name != name.lower() or keyword.iskeyword(name):
        usable = better if better.isidentifier() and better.isascii() and not keyword.iskeyword(better) else "my_losses"
        return Problem(
            f"`{name}` is no name for a plugin",
            f"it names a module and stands in recipes: small letters, digits and underscores, such as `{usable}`",
        )
    if name in RESERVED:
        return Problem(f"the name `{name}` is reserved", "choose another one")
    if name in FIRST_PARTY:
        return Problem(f"`{name}` is a plugin of kdcore's own", "choose a name that is more your own")
    return None
