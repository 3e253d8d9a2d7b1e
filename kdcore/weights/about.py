"""What a checkpoint says of itself, beside its tensors."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kdcore.run.folder import read_json
from kdcore.weights.state import State, read_state

CARD = "config.json"
"""What timm puts beside weights that it shares; it names the ``architecture``."""


def classes_of(state: State, path: Path | None) -> tuple[str, ...] | None:
    """The classes that the weights were trained for, in their order.

    Args:
        state: as read from the file: ``class_names`` or ``classes`` is a list of texts, ``class_to_idx`` a mapping
            from texts to the numbers from 0 on.
        path: of the file, where there is one: ``NAME.json`` beside ``NAME.safetensors`` may hold ``class_names``, as
            ``fit`` and ``export`` write it.
    """
    card = {} if path is None else _json(path.with_suffix(".json"))
    if isinstance(card.get("class_names"), list):
        return tuple(map(str, card["class_names"]))
    for names in (state.get("class_names"), state.get("classes"), _in_order(state.get("class_to_idx"))):
        if isinstance(names, list | tuple) and names and all(isinstance(name, str) for name in names):
            return tuple(names)
    return None


def architecture_of(path: Path) -> str | None:
    """The name of the net that a file of weights belongs to.

    ``arch``, as torchvision's and timm's training scripts write it, or ``architecture``; ``model`` among their
    ``args``; or ``architecture`` in ``config.json`` beside the file.

    Raises:
        RunError: the file cannot be read without running code from it.
    """
    # safetensors holds nothing but tensors, perhaps gigabytes of them
    state = {} if path.suffix == ".safetensors" else read_state(path)
    given = state.get("args")
    arguments = vars(given) if isinstance(given, Namespace) else given if isinstance(given, Mapping) else {}
    card = _json(path.parent / CARD)
    for name in (state.get("arch"), state.get("architecture"), arguments.get("model"), card.get("architecture")):
        if isinstance(name, str) and name:
            return name
    return None


def _in_order(numbers: Any) -> list[Any] | None:
    if not isinstance(numbers, Mapping):
        return None
    names = {number: name for name, number in numbers.items()}
    return [names[index] for index in range(len(names))] if set(names) == set(range(len(numbers))) else None


def _json(path: Path) -> dict[str, Any]:
    return read_json(path) or {}
