"""What a part of a recipe says, without where it stands: the basis of seeds and identities."""

from __future__ import annotations

import hashlib
import json
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any


def content(value: Any) -> Any:
    """Plain JSON types of a slot, stage or value; positions (``path``) are left out."""
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: content(getattr(value, field.name)) for field in fields(value) if field.name != "path"}
    if isinstance(value, dict):
        return {str(key): content(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [content(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def digest(value: Any) -> str:
    """A stable digest of a value's content: 16 hexadecimal digits."""
    text = json.dumps(content(value), sort_keys=True, allow_nan=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
