"""The kit for authors of plugins: what every loss, task and plugin promises, said once and checked.

The public names are imported when they are first used: pytest loads this package in every session.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kdcore.testing.losses import check_loss as check_loss
    from kdcore.testing.plugins import check_plugin as check_plugin
    from kdcore.testing.plugins import registered as registered
    from kdcore.testing.runner import Runner as Runner
    from kdcore.testing.tasks import check_task as check_task

__all__ = ["Runner", "check_loss", "check_plugin", "check_task", "registered"]

_HOMES = {
    "Runner": "kdcore.testing.runner",
    "check_loss": "kdcore.testing.losses",
    "check_plugin": "kdcore.testing.plugins",
    "check_task": "kdcore.testing.tasks",
    "registered": "kdcore.testing.plugins",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module `kdcore.testing` has no attribute `{name}`")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
