"""What a part of a recipe says, without where it stands: the basis of seeds and identities."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any


def content(value: Any, read: Callable[[Path], Any] = str) -> Any:
    """Plain JSON types of a slot, stage or value; positions (``path``) are left out.

    Args:
        read: what stands for a path to a file or a folder.
    """
    if is_dataclass(value) and not isinstance(value, type):
        named = {field.name: getattr(value, field.name) for field in fields(value) if field.name != "path"}
        return content(named, read)
    if isinstance(value, dict):
        return {str(key): content(item, read) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [content(item, read) for item in value]
    return read(value) if isinstance(value, Path) else value


def digest(value: Any) -> str:
    """A stable digest of a value's content: 16 hexadecimal digits."""
    text = json.dumps(content(value), sort_keys=True, allow_nan=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
