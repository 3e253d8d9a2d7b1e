"""What pytest finds where kdcore is installed: the fixture ``runner``. Nothing heavy is imported before it is used."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from kdcore.testing.runner import Runner


@pytest.fixture
def runner(tmp_path: Path) -> Iterator[Runner]:
    """Runs recipes in this process, on the CPU and offline, in the test's folder; fails on what they leave behind."""
    from kdcore.testing.runner import Runner

    made = Runner(tmp_path)
    yield made
    made.finish()
