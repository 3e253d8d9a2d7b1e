"""What a check says of something that breaks one promise, and that it breaks no other."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from kdcore.losses.base import Loss
from kdcore.testing.losses import check_loss

PLAIN = {
    "docstring": "the losses of these tests are described by the tests",
    "paper": "they are of no paper",
    "compile": "takes long, and has tests of its own",
}


def without(name: str) -> dict[str, str]:
    return {key: reason for key, reason in PLAIN.items() if key != name}


def refusal(make: Callable[[], Loss], check: str, *, exactly: bool = True, **inputs: Any) -> str:
    """What ``check_loss`` says, without the name of the loss and of the check, and the last line."""
    with pytest.raises(AssertionError) as caught:
        check_loss(make, **inputs, skip=without(check))
    if exactly:
        check_loss(make, **inputs, skip={**without(check), check: "everything else is as it should be"})
    return inside(str(caught.value), f"{type(make()).__name__} [{check}]: ", "check_loss", check)


def inside(message: str, head: str, caller: str, check: str) -> str:
    """The sentence between the head and the hint how to leave the check out."""
    tail = f"\n(If that is meant: {caller}(..., skip={{'{check}': 'the reason'}}))"
    assert message.startswith(head), message
    assert message.endswith(tail), message
    return message.removeprefix(head).removesuffix(tail)


def plain(sample: Mapping[str, Any], *keys: str) -> dict[str, Any]:
    """A sample whose batch holds these entries only."""
    return {**sample, "batch": {key: sample["batch"][key] for key in keys}}
