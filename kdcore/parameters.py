"""Parameter groups: no weight decay on norms and biases, and what a recipe sets for a pattern of names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from kdcore.errors import RunError, did_you_mean
from kdcore.taps import select


def group_parameters(modules: Mapping[str, nn.Module], patterns: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Groups for an optimizer over everything that learns.

    Args:
        modules: models and losses by name; parameter names are ``<name>.<parameter>``.
        patterns: ``student.encoder.**`` -> settings such as ``lr``; the first that matches wins.

    Raises:
        RunError: a pattern matches nothing, or nothing learns.
    """
    named = {
        f"{owner}.{name}": parameter
        for owner, module in modules.items()
        for name, parameter in module.named_parameters()
        if parameter.requires_grad
    }
    if not named:
        raise RunError(f"nothing to train: {', '.join(modules)} have no parameter that requires a gradient")
    settings: dict[str, Mapping[str, Any]] = {}
    for pattern, values in reversed(patterns.items()):
        matched = select(list(named), pattern)
        if not matched:
            raise RunError(f"optimizer.groups: `{pattern}` matches no parameter: {did_you_mean(pattern, named)}")
        settings.update(dict.fromkeys(matched, values))
    groups: dict[tuple[tuple[tuple[str, Any], ...], bool], dict[str, Any]] = {}
    for name, parameter in named.items():
        own = dict(settings.get(name, {}))
        # a vector or scalar is a bias, a norm's scale or the like: decaying it only hurts
        undecayed = parameter.ndim <= 1 and "weight_decay" not in own
        if undecayed:
            own["weight_decay"] = 0.0
        key = (tuple(sorted(own.items())), undecayed)
        groups.setdefault(key, {**own, "params": []})["params"].append(parameter)
    return list(groups.values())
