"""Activations from inside a net: a path in the recipe, a forward hook on the module, a signal in the step."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from kdcore.errors import RunError, did_you_mean
from kdcore.signals import Signals

_GRAMMAR = re.compile(r"(?P<module>[^:/]*)(?P<input>:in(\((?P<argument>\w+)\))?)?(?P<items>(/\w+)*)")
_RANGE = re.compile(r"\((\d+)\.\.(\d+)\)")


@dataclass(frozen=True)
class TapPath:
    """``neck.(0..2):in(x)/1``: a pattern of module names, its output or an input, and elements of that."""

    module: str
    is_input: bool = False
    argument: str | None = None
    items: tuple[str, ...] = ()

    @classmethod
    def parse(cls, text: str) -> TapPath:
        """Read a path as a recipe writes it.

        Raises:
            RunError: it does not follow the grammar ``MODULE[:in[(ARGUMENT)]][/ITEM...]``.
        """
        match = _GRAMMAR.fullmatch(text)
        if match is None:
            raise RunError(f"`{text}` is not a tap path: write MODULE, MODULE:in, MODULE:in(ARGUMENT) or MODULE/ITEM")
        items = tuple(item for item in match["items"].split("/") if item)
        return cls(match["module"], match["input"] is not None, match["argument"], items)

    def modules(self, model: nn.Module, owner: str) -> list[str]:
        """The names of the modules that match, in the model's own order.

        Raises:
            RunError: none matches; the message suggests a close name.
        """
        names = [name for name, _ in model.named_modules()]
        found = select(names, self.module)
        if not found:
            raise RunError(f"model `{owner}` has no module `{self.module}`: {did_you_mean(self.module, names[1:])}")
        return found

    def pick(self, value: Any, place: str) -> Tensor:
        """Follow ``items`` into an output and insist on a tensor."""
        for item in self.items:
            if item.isdigit() and isinstance(value, Sequence):
                if int(item) >= len(value):
                    raise RunError(f"{place} has {len(value)} elements, none at /{item}")
                value = value[int(item)]
            elif isinstance(value, Mapping) and item in value:
                value = value[item]
            elif hasattr(value, item):
                value = getattr(value, item)
            else:
                raise RunError(f"{place} is a {type(value).__name__} without an element /{item}")
        if value is None:
            raise RunError(
                f"{place} is None: a net that computes attention by a fused kernel keeps no attention maps; "
                "build it with eager attention (transformers: attn_implementation: eager)"
            )
        if not isinstance(value, Tensor):
            kind = type(value).__name__
            keys = f" with {', '.join(map(str, value))}" if isinstance(value, Mapping) else ""
            raise RunError(f"{place} is a {kind}{keys}, not a tensor: pick an element, as in `PATH/0` or `PATH/NAME`")
        return value


def select(names: Sequence[str], pattern: str) -> list[str]:
    """Names that match a pattern: ``*`` is one component, ``**`` any number, ``(0..2)`` a range of numbers."""
    parts = []
    for component in pattern.split("."):
        if component == "**":
            parts.append(r"[^.]+(?:\.[^.]+)*")
        elif found := _RANGE.fullmatch(component):
            first, last = int(found[1]), int(found[2])
            parts.append("(?:" + "|".join(map(str, range(first, last + 1))) + ")")
        else:
            parts.append(re.escape(component).replace(r"\*", "[^.]*"))
    expression = re.compile(r"\.".join(parts))
    return [name for name in names if expression.fullmatch(name)]


class Taps:
    """The taps of one net. Register them before ``module.compile()``: hooks that come later never fire.

    They collect only while :meth:`armed`, because checkpointed blocks run again in the backward pass.
    """

    def __init__(self, model: nn.Module, paths: Mapping[str, str], owner: str) -> None:
        self._owner = owner
        self._armed = False
        self._found: dict[str, list[Tensor]] = {}
        self._single: dict[str, bool] = {}
        self._handles: list[RemovableHandle] = []
        for name, text in paths.items():
            path = TapPath.parse(text)
            modules = path.modules(model, owner)
            self._single[name] = len(modules) == 1
            for module in modules:
                self._hook(name, path, module, model.get_submodule(module))
        self._clear()

    def _hook(self, name: str, path: TapPath, at: str, module: nn.Module) -> None:
        place = f"tap `{name}` of model `{self._owner}` (the {'input' if path.is_input else 'output'} of `{at}`)"

        def keep_output(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            if self._armed:
                self._found[name].append(path.pick(output, place))

        def keep_input(module: nn.Module, args: Any, kwargs: Any) -> None:
            if self._armed:
                if path.argument is not None and path.argument not in kwargs:
                    raise RunError(f"{place}: it was called without the keyword `{path.argument}`")
                value = kwargs[path.argument] if path.argument is not None else (args or tuple(kwargs.values()))[0]
                self._found[name].append(path.pick(value, place))

        if path.is_input:
            self._handles.append(module.register_forward_pre_hook(keep_input, with_kwargs=True))
        else:
            self._handles.append(module.register_forward_hook(keep_output, with_kwargs=True))

    @contextmanager
    def armed(self) -> Iterator[None]:
        """Collect during this block; :meth:`take` hands over what was found."""
        self._armed = True
        try:
            yield
        finally:
            self._armed = False

    def take(self) -> Signals:
        """What was collected, as ``tap.<name>``, or ``tap.<name>@<i>`` where there are several; then forget it.

        Raises:
            RunError: a tapped module was never called.
        """
        signals: Signals = {}
        for name, tensors in self._found.items():
            if not tensors:
                raise RunError(f"tap `{name}` of model `{self._owner}`: the module was not called in the forward pass")
            if len(tensors) == 1 and self._single[name]:
                signals[f"tap.{name}"] = tensors[0]
            else:
                signals.update({f"tap.{name}@{i}": tensor for i, tensor in enumerate(tensors)})
        self._clear()
        return signals

    def _clear(self) -> None:
        # fresh lists: the ones handed to a compiled graph must not keep activations alive
        self._found = {name: [] for name in self._single}

    def remove(self) -> None:
        """Take the hooks off the net again."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()


def resize_to(x: Tensor, size: torch.Size) -> Tensor:
    """Resize the spatial axes (all after the second) of ``x`` (N, C, ...) to ``size``, linearly, corners not aligned."""
    mode = {1: "linear", 2: "bilinear", 3: "trilinear"}[len(size)]
    return nn.functional.interpolate(x, size=tuple(size), mode=mode, align_corners=False)
