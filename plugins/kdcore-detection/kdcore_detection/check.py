"""What is wrong with a recipe for detection beyond what signatures tell. Imports no torch."""

from __future__ import annotations

from kdcore.errors import Problem
from kdcore.recipe.schema import Recipe


def check_recipe(recipe: Recipe) -> list[Problem]:
    """Every problem of every stage, each once."""
    return []
