"""The type of the fixtures that write pictures; not in conftest.py, because there are two of that name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

Draw: TypeAlias = Callable[..., Path]
