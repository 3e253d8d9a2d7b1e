from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from lab import Lab


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    """Recipes as text, trained for real on one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield Lab(tmp_path)
    torch.set_num_threads(threads)
