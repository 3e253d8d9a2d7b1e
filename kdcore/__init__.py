"""kdcore: knowledge-distillation recipes on Lightning.

The public names are imported when they are first used, so that ``import kdcore`` costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kdcore.hookspecs import hookimpl as hookimpl
    from kdcore.losses.base import Loss as Loss
    from kdcore.losses.base import Total as Total
    from kdcore.losses.base import total_of as total_of
    from kdcore.task import Task as Task

__all__ = ["Loss", "Task", "Total", "hookimpl", "total_of"]

_HOMES = {
    "Loss": "kdcore.losses.base",
    "Total": "kdcore.losses.base",
    "Task": "kdcore.task",
    "hookimpl": "kdcore.hookspecs",
    "total_of": "kdcore.losses.base",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module `kdcore` has no attribute `{name}`")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
