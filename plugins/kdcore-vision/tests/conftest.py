"""Pictures that the tests share, and one thread for everybody."""

from __future__ import annotations

import gzip
import struct
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import numpy as np
import pytest
import torch
from kdcore.testing.pytest_plugin import runner  # which pytest finds by itself where kdcore is installed
from PIL import Image

__all__ = ["runner"]

Draw: TypeAlias = Callable[..., Path]

torch.set_num_threads(1)


@pytest.fixture
def picture(tmp_path: Path) -> Draw:
    """Writes a picture of one colour below the test's folder."""

    def write(name: str, height: int = 6, width: int = 8, colour: object = (10, 20, 30), mode: str = "RGB") -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        made = Image.new("RGB", (width, height), colour) if mode != "I;16" else Image.new("I;16", (width, height), 9999)
        (made if mode == "I;16" else made.convert(mode)).save(path)
        return path

    return write


@pytest.fixture
def folders(tmp_path: Path, picture: Draw) -> Path:
    """``pictures/ant`` and ``pictures/bee`` with ten pictures of 6x8 each; red is ten times the picture's number."""
    for name in ("bee", "ant"):
        for number in range(10):
            picture(f"pictures/{name}/{number}.png", colour=(10 * number, 0, 0))
    return tmp_path / "pictures"


@pytest.fixture
def fashion(tmp_path: Path) -> Path:
    """The four files of Fashion-MNIST, with 120 and 30 pictures; the first pixel of each tells its row."""
    folder = tmp_path / "fashion"
    folder.mkdir()
    for name, count in (("train", 120), ("t10k", 30)):
        labels = (np.arange(count) % 10).astype(np.uint8)
        images = np.zeros((count, 28, 28), np.uint8)
        for row, label in enumerate(labels):
            images[row, 2 * label : 2 * label + 6] = 200
        images[:, 0, 0] = np.arange(count)
        write_idx(folder / f"{name}-images-idx3-ubyte.gz", images)
        write_idx(folder / f"{name}-labels-idx1-ubyte.gz", labels)
    return folder


def write_idx(path: Path, values: np.ndarray) -> None:
    """A file of the IDX format, packed where its name says so."""
    content = struct.pack(f">{1 + values.ndim}I", 0x800 + values.ndim, *values.shape) + values.tobytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
