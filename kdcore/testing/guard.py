"""What a run must leave as it was: the environment, hooks on modules, and the network alone."""

from __future__ import annotations

import gc
import ipaddress
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn
from torch.nn.modules import module as global_hooks

TOLERATED = ("PYTEST_", "CUDA_", "KMP_", "PL_", "PYTORCH_", "TORCH", "WANDB_")
"""How the variables begin that pytest, torch, Lightning and W&B set for themselves."""

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_GLOBAL = tuple(name for name in vars(global_hooks) if name.startswith("_global_") and name.endswith("_hooks"))


class NetworkRefusedError(OSError):
    """Raised where something connects to another machine while a guard stands."""


class Guard:
    """Collects what runs left behind.

    Attributes:
        found: one sentence for each leak.
    """

    def __init__(self) -> None:
        self.found: list[str] = []
        self._hooks = _hooks()
        if self._hooks:  # one that waits to be collected now would make room for one that is left later
            gc.collect()
            self._hooks = _hooks()

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Watch one run: it may not reach other machines, and the environment is put back after it."""
        before = dict(os.environ)
        with self._offline():
            try:
                yield
            finally:
                self.found += _restored(before)

    def finish(self) -> None:
        """Look for hooks that are left on modules.

        Raises:
            AssertionError: something was left behind, in this or in any run before.
        """
        left = _hooks() - self._hooks
        if left:
            gc.collect()  # what is only waiting to be collected is not left behind
            left = _hooks() - self._hooks
        for place, count in left.items():
            self.found.append(
                f"{count} of the {place[0]} of {place[1]} are left: keep the handle and call its remove(), or use a tap"
            )
        if self.found:
            raise AssertionError("the run left something behind:\n" + "\n".join(f"- {leak}" for leak in self.found))

    @contextmanager
    def _offline(self) -> Iterator[None]:
        names = ("connect", "connect_ex", "sendto")
        original = {name: getattr(socket.socket, name) for name in names}
        lookup = socket.getaddrinfo

        def guarded(name: str) -> Callable[..., Any]:
            def call(this: socket.socket, *arguments: Any) -> Any:
                # sendto has the address last, the others have nothing else
                self._check(arguments[-1] if this.family != socket.AF_UNIX else None)
                return original[name](this, *arguments)

            return call

        def looked_up(host: Any, *arguments: Any, **more: Any) -> Any:
            self._check((host,))
            return lookup(host, *arguments, **more)

        try:
            for name in names:
                setattr(socket.socket, name, guarded(name))
            socket.getaddrinfo = looked_up
            yield
        finally:
            for name in names:
                setattr(socket.socket, name, original[name])
            socket.getaddrinfo = lookup

    def _check(self, address: Any) -> None:
        host = address[0] if isinstance(address, tuple) else None
        if host is None or _is_here(host.decode() if isinstance(host, bytes) else str(host)):
            return
        leak = (
            f"something connected to {host}: a test that needs the network fails elsewhere. Make small data and "
            "weights in the test, and name them by a path or `file://`"
        )
        if leak not in self.found:
            self.found.append(leak)
        raise NetworkRefusedError(leak)


def _is_here(host: str) -> bool:
    if host in ("", "localhost"):
        return True
    try:
        return ipaddress.ip_address(host.partition("%")[0]).is_loopback
    except ValueError:
        return False


def _restored(before: dict[str, str]) -> list[str]:
    """Put the environment back; what had changed, in words."""
    changed = sorted(
        name for name in before.keys() | os.environ.keys()
        if before.get(name) != os.environ.get(name) and not name.startswith(TOLERATED)
    )  # fmt: skip
    found = []
    for name in changed:
        now = os.environ.get(name)
        verb = "is gone" if now is None else f"was set to `{now}`" if name not in before else f"became `{now}`"
        found.append(f"the environment variable {name} {verb}: put it back when the run ends, or pass the value on")
        if name in before:
            os.environ[name] = before[name]
        else:
            del os.environ[name]
    return found


class _Counts(dict[tuple[str, str], int]):
    """How many hooks there are, by their sort and where they are."""

    def __sub__(self, other: _Counts) -> dict[tuple[str, str], int]:
        return {place: count - other.get(place, 0) for place, count in self.items() if count > other.get(place, 0)}


def _hooks() -> _Counts:
    """All hooks on modules that are alive, and those for every module."""
    counts = _Counts()
    for name in _GLOBAL:
        if len(getattr(global_hooks, name)):
            counts["hooks", f"torch.nn.modules.module.{name}"] = len(getattr(global_hooks, name))
    for candidate in gc.get_objects():
        # type(), not isinstance(): that would wake up lazy modules of third parties
        if issubclass(type(candidate), nn.Module):
            for name in _HOOKS:
                hooks = candidate.__dict__.get(name)
                if hooks:
                    place = (name.strip("_").replace("_", " "), type(candidate).__name__)
                    counts[place] = counts.get(place, 0) + len(hooks)
    return counts
