"""Signals out of what a net returns by name."""

from __future__ import annotations

from typing import Any

from kdcore.signals import Signals
from torch import Tensor


def named(found: Any, *wanted: str, who: str) -> Signals:
    """The tensors of a ``NamedTuple``, all of them.

    Args:
        found: what a net returned.
        wanted: names that must be there.
        who: what such a net is called, for the message.

    Raises:
        ValueError: one of them is missing.
    """
    told: dict[str, Any] = found._asdict() if hasattr(found, "_asdict") else {}
    signals = {name: value for name, value in told.items() if isinstance(value, Tensor)}
    if not set(wanted) <= signals.keys():
        names = " and ".join(f"`{name}`" for name in wanted)
        raise ValueError(f"the model returned a {type(found).__name__}; {who} returns {names} by name")
    return signals
