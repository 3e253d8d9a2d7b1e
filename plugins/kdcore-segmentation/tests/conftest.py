"""Files that the tests of the data share, and one thread for everybody."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from kdcore.testing.pytest_plugin import runner  # which pytest finds by itself where kdcore is installed
from pictures import Draw
from PIL import Image

__all__ = ["runner"]

torch.set_num_threads(1)


@pytest.fixture
def image(tmp_path: Path) -> Draw:
    """Writes an RGB image below the test's folder: red is its row, green its column, blue ``blue``."""

    def write(name: str, height: int = 6, width: int = 8, blue: int = 7) -> Path:
        rows, columns = np.mgrid[:height, :width]
        pixels = np.stack([rows, columns, np.full_like(rows, blue)], axis=-1).astype(np.uint8)
        return _save(Image.fromarray(pixels), tmp_path / name)

    return write


@pytest.fixture
def mask(tmp_path: Path) -> Draw:
    """Writes a mask of one channel: the row's number modulo ``classes``, or what ``values`` say."""

    def write(
        name: str, height: int = 6, width: int = 8, classes: int = 3, values: object = None, mode: str = "L"
    ) -> Path:
        rows = np.mgrid[:height, :width][0] % classes if values is None else np.asarray(values)
        picture = Image.fromarray(rows.astype(np.uint8))
        if mode == "P":
            picture.putpalette([255, 0, 0] * 256)
            return _save(picture, tmp_path / name)
        return _save(picture.convert(mode), tmp_path / name)

    return write


def _save(picture: Image.Image, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path)
    return path


@pytest.fixture
def folders(tmp_path: Path, image: Draw, mask: Draw) -> Path:
    """``images`` and ``masks`` with ten pairs of 6x8 and three classes; blue is ten times the number."""
    for number in range(10):
        image(f"images/{number}.png", blue=10 * number)
        mask(f"masks/{number}.png")
    return tmp_path


@pytest.fixture
def camvid(tmp_path: Path, image: Draw, mask: Draw, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder laid out as CamVid, with eight pictures of 64x64 to train on, as ``KDCORE_DATA``."""
    for split, count in (("train", 8), ("val", 2), ("test", 2)):
        for number in range(count):
            image(f"segmentation/camvid/{split}/{number}.png", 64, 64, blue=30 * number)
            blocks = np.kron(np.arange(64).reshape(8, 8) % (11 - number % 3), np.ones((8, 8)))
            mask(f"segmentation/camvid/{split}annot/{number}.png", values=blocks)
    monkeypatch.setenv("KDCORE_DATA", str(tmp_path))
    return tmp_path
