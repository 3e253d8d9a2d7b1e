"""Activations from inside a net: a path in the recipe, a forward hook on the module, a signal in the step."""

from __future__ import annotations

import difflib
import inspect
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from kdcore.errors import RunError
from kdcore.signals import Signals

_GRAMMAR = re.compile(r"(?P<module>[^:/]*)(?P<input>:in(\((?P<argument>\w+)\))?)?(?P<items>(/\w+)*)")
_RANGE = re.compile(r"\((\d+)\.\.(\d+)\)")
_WILD = re.compile(r"\*\*\.|\*\*|\*|\(\d+\.\.\d+\)")


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
        """The names of the modules that match, in the model's own order; one that has several names counts once.

        Raises:
            RunError: none matches; the message suggests a close name.
        """
        modules = dict(model.named_modules(remove_duplicate=False))
        found: dict[nn.Module, str] = {}
        for name in select(modules, self.module):
            found.setdefault(modules[name], name)
        if not found:
            raise RunError(f"model `{owner}` has no module `{self.module}`: {suggest(self.module, modules)}")
        return list(found.values())

    def pick(self, value: Any, place: str) -> Tensor:
        """Follow ``items`` into an output and insist on a tensor.

        Raises:
            RunError: there is no such element, it is ``None``, or it is no tensor.
        """
        for item in self.items:
            if value is None:
                break
            if item.isdigit() and isinstance(value, Sequence):
                if int(item) >= len(value):
                    raise RunError(f"{place} has {len(value)} elements, none at /{item}")
                value = value[int(item)]
            elif isinstance(value, Mapping) and item in value:
                value = value[item]
            elif hasattr(value, item):
                value = getattr(value, item)
            else:
                raise RunError(f"{place} is a {_kind(value)} without an element /{item}")
        if value is None:
            raise RunError(
                f"{place} is None: a net that computes attention by a fused kernel keeps no attention maps; "
                "build it with eager attention (transformers: attn_implementation: eager)"
            )
        if not isinstance(value, Tensor):
            raise RunError(f"{place} is a {_kind(value)}, not a tensor: pick an element, as in `PATH/0` or `PATH/NAME`")
        return value


def _kind(value: Any) -> str:
    names = f" with {', '.join(map(str, value))}" if isinstance(value, Mapping) else ""
    return f"{type(value).__name__}{names}"


def select(names: Iterable[str], pattern: str) -> list[str]:
    """Names that match a pattern of components joined by dots.

    ``*`` is any text within a component, ``**`` any number of components (at the end at least one: what is inside),
    ``(0..2)`` a range of numbers, which may be part of a component (``layer(1..3)``).
    """
    expression, last = "", 0
    for wild in _WILD.finditer(pattern):
        expression += re.escape(pattern[last : wild.start()]) + _translated(wild[0])
        last = wild.end()
    compiled = re.compile(expression + re.escape(pattern[last:]))
    # the root's name is empty: only an empty pattern means it
    return [name for name in names if compiled.fullmatch(name) and (name or not pattern)]


def _translated(wild: str) -> str:
    if found := _RANGE.fullmatch(wild):
        numbers = range(int(found[1]), int(found[2]) + 1)
        return f"(?:{'|'.join(map(str, numbers))})" if numbers else r"(?!)"
    return {"**.": r"(?:[^.]+\.)*", "**": r"[^.]+(?:\.[^.]+)*", "*": r"[^.]*"}[wild]


def suggest(pattern: str, names: Iterable[str]) -> str:
    """``did you mean `x`?`` for the closest name, else how the names begin: a net has too many to list."""
    known = [name for name in names if name]
    close = difflib.get_close_matches(pattern, known, n=1, cutoff=0.6)
    if close:
        return f"did you mean `{close[0]}`?"
    return f"its names begin with {', '.join(dict.fromkeys(name.partition('.')[0] for name in known)) or 'nothing'}"


class Taps:
    """The taps of one net. Register them before ``module.compile()``: hooks that come later never fire.

    They collect only while :meth:`armed`, because checkpointed blocks run again in the backward pass.

    Args:
        model: the net.
        paths: tap name -> path.
        owner: the net's name in the recipe, for messages.

    Raises:
        RunError: a path is malformed, or names a module or an argument that is not there.
    """

    def __init__(self, model: nn.Module, paths: Mapping[str, str], owner: str) -> None:
        self._owner = owner
        self._armed = False
        self._sites: dict[str, list[str]] = {}
        self._found: dict[tuple[str, str], list[Tensor]] = {}
        self._handles: list[RemovableHandle] = []
        parsed = {name: TapPath.parse(text) for name, text in paths.items()}
        self._sites = {name: path.modules(model, owner) for name, path in parsed.items()}
        self._clear()
        try:
            for name, path in parsed.items():
                for at in self._sites[name]:
                    self._hook(name, path, at, model.get_submodule(at))
        except RunError:
            self.remove()
            raise

    def _hook(self, name: str, path: TapPath, at: str, module: nn.Module) -> None:
        place = f"tap `{name}` of model `{self._owner}` (the {'input' if path.is_input else 'output'} of `{at}`)"
        site = (name, at)

        def keep_output(_module: nn.Module, _args: Any, output: Any) -> None:
            if self._armed:
                self._found[site].append(path.pick(output, place))

        if not path.is_input:
            self._handles.append(module.register_forward_hook(keep_output))
            return
        argument = path.argument
        position = 0 if argument is None else _position(module, argument, place)

        def keep_input(_module: nn.Module, args: Any, kwargs: Any) -> None:
            if not self._armed:
                return
            given = args if argument is not None else (*args, *kwargs.values())
            if argument is not None and argument in kwargs:
                self._found[site].append(path.pick(kwargs[argument], place))
            elif position is not None and position < len(given):
                self._found[site].append(path.pick(given[position], place))
            else:
                raise RunError(f"{place}: it was called without {f'`{argument}`' if argument else 'any argument'}")

        self._handles.append(module.register_forward_pre_hook(keep_input, with_kwargs=True))

    @contextmanager
    def armed(self) -> Iterator[None]:
        """Collect during this block; :meth:`take` hands over what was found."""
        self._clear()  # a forward pass that failed may have left something
        self._armed = True
        try:
            yield
        finally:
            self._armed = False

    def take(self) -> Signals:
        """What was collected, then forget it.

        Returns:
            ``tap.<name>``; or ``tap.<name>@<i>`` where there are several, module by module in the net's order, the
            calls of each in turn.

        Raises:
            RunError: a tapped module was never called.
        """
        signals: Signals = {}
        for name, modules in self._sites.items():
            for at in modules:
                if not self._found[name, at]:
                    # left out, it would shift the numbers of those after it
                    raise RunError(
                        f"tap `{name}` of model `{self._owner}`: the module `{at}` was not called in the forward pass"
                    )
            tensors = [tensor for at in modules for tensor in self._found[name, at]]
            if len(tensors) == 1:
                signals[f"tap.{name}"] = tensors[0]
            else:
                signals.update({f"tap.{name}@{i}": tensor for i, tensor in enumerate(tensors)})
        self._clear()
        return signals

    def _clear(self) -> None:
        self._found = {(name, at): [] for name, modules in self._sites.items() for at in modules}

    def remove(self) -> None:
        """Take the hooks off the net again."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()


def _position(module: nn.Module, argument: str, place: str) -> int | None:
    """Where a caller that names no arguments puts this one; ``None`` where it must be named.

    Raises:
        RunError: ``forward`` takes no such argument.
    """
    parameters = inspect.signature(module.forward).parameters
    positional = [p.name for p in parameters.values() if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    if argument in positional:
        return positional.index(argument)
    if argument not in parameters and not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        raise RunError(f"{place}: its forward takes {', '.join(parameters) or 'nothing'}, not `{argument}`")
    return None


def resize_to(x: Tensor, size: Sequence[int], *, axis: int = 2) -> Tensor:
    """Resize the axes from ``axis`` on (as many as ``size`` has) linearly, corners not aligned.

    Args:
        x: (N, C, ...) with ``axis=2``, or (N, T, C) with ``axis=1`` and one size.
        size: the new size of those axes; one to three of them.
    """
    mode = {1: "linear", 2: "bilinear", 3: "trilinear"}[len(size)]
    if axis == 1:
        x = x.transpose(1, 2)
    resized = nn.functional.interpolate(x, size=tuple(size), mode=mode, align_corners=False)
    return resized.transpose(1, 2) if axis == 1 else resized
