"""Seeds that are pure functions of what they belong to, so that samples, orders and initial weights replay."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

_GOLDEN = 0x9E3779B97F4A7C15
_FIRST = 0xBF58476D1CE4E5B9
_SECOND = 0x94D049BB133111EB
_ALL = (1 << 64) - 1
_POSITIVE = (1 << 63) - 1


def derive_seed(*parts: int | str) -> int:
    """A seed in [0, 2**31) that depends on every part, its type and its place; the same on every machine and version.

    ``derive_seed(0, "order", 3)`` and ``derive_seed(0, "order", "3")`` differ.
    """
    digest = hashlib.blake2b(digest_size=8)
    for part in parts:
        text = str(part).encode()
        digest.update(f"{'i' if isinstance(part, int) else 's'}{len(text)}:".encode() + text)
    return int.from_bytes(digest.digest(), "big") >> 33


def sample_seeds(seed: int, ids: Tensor, variant: int = 0) -> Tensor:
    """One seed for each sample: a pure function of (recipe seed, sample id, variant), alike on every device.

    The finaliser of splitmix64 is a bijection, so that different ids never meet before the sign is dropped.

    Args:
        seed: the recipe's seed.
        ids: int64 (N,), stable sample ids.
        variant: which of several draws for the same sample: a view, or an epoch.

    Returns:
        int64 (N,), in [0, 2**63): good for ``torch.Generator.manual_seed`` and ``numpy.random.default_rng``.

    **Paper**: Steele, Lea and Flood, Fast splittable pseudorandom number generators, OOPSLA 2014, with the constants
    of Stafford's Mix13.
    """
    key = _mix_int(_mix_int(seed & _ALL) + variant & _ALL)
    return _mix(_mix(ids) ^ _signed(key)) & _POSITIVE


def _mix_int(value: int) -> int:
    """:func:`_mix` for one Python integer, in unsigned arithmetic."""
    value = value + _GOLDEN & _ALL
    value = (value ^ value >> 30) * _FIRST & _ALL
    value = (value ^ value >> 27) * _SECOND & _ALL
    return value ^ value >> 31


def _mix(values: Tensor) -> Tensor:
    """One splitmix64 step; int64 products wrap modulo 2**64 exactly as unsigned ones do."""
    values = values + _signed(_GOLDEN)
    values = (values ^ _shifted(values, 30)) * _signed(_FIRST)
    values = (values ^ _shifted(values, 27)) * _signed(_SECOND)
    return values ^ _shifted(values, 31)


def _shifted(values: Tensor, by: int) -> Tensor:
    """Logical right shift: torch's own copies the sign bit, which is masked away here."""
    return (values >> by) & ((1 << 64 - by) - 1)


def _signed(value: int) -> int:
    """The int64 with the same 64 bits."""
    return value - (1 << 64) if value > _POSITIVE else value
