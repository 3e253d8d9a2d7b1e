"""Which parts of a net are run on their own, outside of a call of the whole."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import nn


@dataclass
class Calls:
    """What was seen: calls of the whole net, and parts that were run without it."""

    calls: int = 0
    outside: list[str] = field(default_factory=list)


@contextmanager
def calls_around(model: nn.Module) -> Iterator[Calls]:
    """Watch a net during this block."""
    seen = Calls()
    running = 0

    def enter(_module: nn.Module, _args: Any) -> None:
        nonlocal running
        running += 1
        seen.calls += 1

    def leave(_module: nn.Module, _args: Any, _output: Any) -> None:
        nonlocal running
        running -= 1

    def part(name: str) -> Any:
        def called(_module: nn.Module, _args: Any) -> None:
            if not running:
                seen.outside.append(name)

        return called

    handles = [model.register_forward_pre_hook(enter), model.register_forward_hook(leave, always_call=True)]
    handles += [module.register_forward_pre_hook(part(name)) for name, module in model.named_modules() if name]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()
