from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from lab import Lab
from plugin_factory import PluginFactory
from workshop import Workshop


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    """Recipes as text, trained for real on one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield Lab(tmp_path)
    torch.set_num_threads(threads)


@pytest.fixture
def plugins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[PluginFactory]:
    """Distributions that seem to be installed, and are gone again afterwards."""
    factory = PluginFactory(tmp_path / "site", monkeypatch)
    yield factory
    factory.forget()


@pytest.fixture
def workshop(tmp_path: Path) -> Workshop:
    """A folder with a tiny recipe, and the command line to run it with."""
    return Workshop(tmp_path / "workshop")


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    """A workshop whose recipe was run once; for tests that only look at it or run in folders of their own."""
    made = Workshop(tmp_path_factory.mktemp("finished"))
    made.fit()
    return made
