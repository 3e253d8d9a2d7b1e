"""Parameter groups: no weight decay on norms and biases, and what a recipe sets for a pattern of names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from kdcore.errors import RunError
from kdcore.taps import select, suggest


def group_parameters(
    modules: Mapping[str, nn.Module], patterns: Mapping[str, Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Groups for an optimizer over everything that learns.

    Args:
        modules: models and losses by name; parameter names are ``<name>.<parameter>``. A parameter with several
            names goes by the first.
        patterns: ``student.encoder.**`` -> settings such as ``lr``; the first that matches wins. A ``weight_decay``
            given here holds for norms and biases too.

    Raises:
        RunError: a pattern matches nothing, or nothing learns.
    """
    named = _learning(modules)
    settings: dict[str, Mapping[str, Any]] = {}
    for pattern, values in patterns.items():
        matched = select(named, pattern)
        if not matched:
            raise RunError(f"optimizer.groups: `{pattern}` matches no parameter that learns: {suggest(pattern, named)}")
        settings = dict.fromkeys(matched, values) | settings
    groups: dict[str, dict[str, Any]] = {}
    for name, parameter in named.items():
        own = dict(settings.get(name, {}))
        # a vector or scalar is a bias, a norm's scale or the like: decaying it only hurts
        if parameter.ndim <= 1:
            own.setdefault("weight_decay", 0.0)
        groups.setdefault(repr(sorted(own.items())), {**own, "params": []})["params"].append(parameter)
    return list(groups.values())


def _learning(modules: Mapping[str, nn.Module]) -> dict[str, nn.Parameter]:
    named: dict[nn.Parameter, str] = {}
    for owner, module in modules.items():
        for name, parameter in module.named_parameters():
            if parameter.requires_grad:
                named.setdefault(parameter, f"{owner}.{name}")
    if not named:
        raise RunError(f"nothing to train: no parameter of {', '.join(modules)} requires a gradient")
    return {name: parameter for parameter, name in named.items()}
