"""One thread for everybody, files of sound, and the core's runner."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from kdcore.testing.pytest_plugin import runner  # which pytest finds by itself where kdcore is installed

__all__ = ["runner"]

torch.set_num_threads(1)

Write = Callable[..., Path]


@pytest.fixture
def sound(tmp_path: Path) -> Write:
    """Writes a tone below the test's folder; the ending decides the format."""

    def write(
        name: str, seconds: float = 0.5, rate: int = 8000, hertz: float = 440.0, channels: int = 1, **options: Any
    ) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        time = np.arange(round(seconds * rate)) / rate
        wave = 0.5 * np.sin(2 * np.pi * hertz * time)
        scales = np.arange(1, channels + 1) / channels
        soundfile.write(path, wave[:, None] * scales, rate, **options)
        return path

    return write


@pytest.fixture
def fsdd(sound: Write, tmp_path: Path) -> Path:
    """Three digits of two speakers, twelve recordings each, as long as their index says."""
    for digit in range(3):
        for speaker in ("anna", "bert"):
            for index in range(12):
                sound(f"{digit}_{speaker}_{index}.wav", 0.1 + 0.01 * index, hertz=300.0 + 100 * digit)
    return tmp_path


@pytest.fixture
def data(fsdd: Path) -> Path:
    """These recordings where the recipes look for them below ``KDCORE_DATA``."""
    folder = fsdd / "data" / "speech" / "fsdd"
    folder.mkdir(parents=True)
    (folder / "recordings").symlink_to(fsdd)
    return fsdd / "data"
