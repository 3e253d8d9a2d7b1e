"""What may multiply a term."""

from __future__ import annotations


def check_weights(**weights: float) -> None:
    """Refuse a weight that would reward what its term is there to prevent.

    Raises:
        ValueError: one of them is below 0.
    """
    for name, value in weights.items():
        if not value >= 0:
            raise ValueError(f"{name}={value} is below 0: it is a weight")
