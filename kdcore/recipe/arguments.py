"""The words after a verb: recipe files, names of shipped recipes, and overrides."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from kdcore.discovery import shipped_recipes
from kdcore.errors import Problem, RecipeError, did_you_mean
from kdcore.recipe.overrides import PATH


def split_arguments(
    words: Sequence[str], shipped: Mapping[str, Path] | None = None
) -> tuple[tuple[Path, ...], tuple[str, ...]]:
    """Sort words into recipe files and overrides.

    A word that is an existing file is a recipe; one with ``=``, or ``~`` before a dotted path, is an override;
    anything else without a suffix is the name of a shipped recipe.

    Args:
        shipped: the shipped recipes by name (``Plugins.shipped_recipes``); those of the core by default.

    Raises:
        RecipeError: a name that is neither a file nor a shipped recipe; the message lists those.
    """
    sources: list[Path] = []
    overrides: list[str] = []
    problems: list[Problem] = []
    for word in words:
        if _is_file(word):
            sources.append(_expanded(word))
        elif "=" in word or (word.startswith("~") and PATH.fullmatch(word[1:])):
            overrides.append(word)
        elif Path(word).suffix in (".yaml", ".yml") or "/" in word:
            sources.append(_expanded(word))  # there is none: reading it says so, together with all else
        else:
            known = shipped_recipes() if shipped is None else shipped
            if word in known:
                sources.append(known[word])
            else:
                names = ", ".join(sorted(known)) or "none"
                close = did_you_mean(word, known)
                hint = f"{close} shipped recipes: {names}" if close.startswith("did") else f"shipped recipes: {names}"
                problems.append(Problem(f"`{word}` is no file and no shipped recipe", hint))
    if problems:
        raise RecipeError(problems)
    return tuple(sources), tuple(overrides)


def _is_file(word: str) -> bool:
    try:
        return _expanded(word).is_file()
    except (OSError, ValueError):  # too long, a NUL
        return False


def _expanded(word: str) -> Path:
    return Path(os.path.expanduser(word))  # noqa: PTH111 (pathlib raises for `~nobody`)
