"""The fixture ``runner``, which pytest finds by itself where kdcore is installed."""

from __future__ import annotations

from kdcore.testing.pytest_plugin import runner

__all__ = ["runner"]
