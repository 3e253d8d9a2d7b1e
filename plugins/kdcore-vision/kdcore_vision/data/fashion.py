"""Fashion-MNIST, as Debian packages it."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from kdcore.data.base import Split
from kdcore.data.seeds import sample_seeds
from kdcore.errors import RunError
from torch import Tensor

from kdcore_vision.data.images import Held, Images, from_bytes

NAMES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip

FILES = {"train": "train", "test": "t10k"}
"""How the names of the files begin."""

SPLIT_SEED = 1797
"""Fixes which training pictures are held out: not the recipe's seed, so that all seeds are scored on the same ones."""

TEST_IDS = 1 << 32
"""Ids of the test pictures begin here."""


class FashionMNIST(Images):
    """70,000 grey pictures of clothes, 28x28, ten classes: 60,000 to train on, of which some are held out, 10,000 test.

    All of it is in memory as bytes. ``id`` is the row in the files.

    Args:
        path: holds the four files ``train-images-idx3-ubyte`` and so on, with or without ``.gz``: what ``apt-get
            install dataset-fashion-mnist`` puts into ``/usr/share/datasets/fashion-mnist``, or torchvision's
            ``FashionMNIST/raw``. Files of the same format with fewer pictures will do.
        batch_size: samples in a batch, over all devices together.
        validation: how many training pictures are held out for validation.
        labels: keep only so many training labels, evenly over the classes and chosen by the recipe's seed; the other
            pictures stay, with the label -100, for a teacher to speak about.
        workers: processes that transform pictures.

    Raises:
        RunError: a file is missing or damaged.
        ValueError: too many are held out; ``labels`` that leave a class without one.

    **Source**: Xiao, Rasul and Vollgraf, 2017 (arXiv 1708.07747), MIT licence.
    """

    def __init__(
        self,
        *,
        path: Path,
        batch_size: int = 128,
        validation: int = 5000,
        labels: int | None = None,
        workers: int = 0,
    ) -> None:
        super().__init__(
            names=NAMES,
            channels=1,
            size=(28, 28),
            batch_size=batch_size,
            labels=labels,
            workers=workers,
        )
        if validation < 1:
            raise ValueError(f"validation={validation}: hold out at least 1 picture")
        self._path = Path(path)
        self._validation = validation
        self._read: dict[str, Held] = {}

    def load(self, name: Split) -> Held:
        if name == "test":
            return self._part("test")
        everything = self._part("train")
        if self._validation >= len(everything):
            raise ValueError(f"validation={self._validation}: there are only {len(everything)} training pictures")
        order = sample_seeds(SPLIT_SEED, everything.ids).argsort()
        rows = order[: self._validation] if name == "val" else order[self._validation :]
        return everything.rows(rows.sort().values)

    def _part(self, part: Literal["train", "test"]) -> Held:
        if part not in self._read:
            images = read_idx(self._path, f"{FILES[part]}-images-idx3-ubyte", axes=3).unsqueeze(1)
            labels = read_idx(self._path, f"{FILES[part]}-labels-idx1-ubyte", axes=1)
            if len(images) != len(labels):
                raise RunError(f"{self._path}: {len(images)} pictures and {len(labels)} labels of `{FILES[part]}`")
            if images.shape[2:] != (28, 28) or int(labels.max()) >= len(NAMES):
                raise RunError(f"{self._path}: these are not the pictures of Fashion-MNIST (28x28, ten classes)")
            first = TEST_IDS if part == "test" else 0
            self._read[part] = from_bytes(images, labels, torch.arange(len(labels)) + first)
        return self._read[part]


def read_idx(folder: Path, name: str, *, axes: int) -> Tensor:
    """One file of the IDX format, with or without ``.gz``, as uint8.

    Raises:
        RunError: it is missing or damaged.
    """
    path = next((path for path in (folder / name, folder / f"{name}.gz") if path.is_file()), None)
    if path is None:
        raise RunError(
            f"{folder / name}: there is no such file, nor {name}.gz. `apt-get install dataset-fashion-mnist` puts it "
            "into /usr/share/datasets/fashion-mnist"
        )
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        magic, *shape = struct.unpack(f">{1 + axes}I", content[: 4 * (1 + axes)])
        if magic != 0x800 + axes:
            raise ValueError(f"it begins with {magic:#x}")
        pixels = np.frombuffer(content, np.uint8, offset=4 * (1 + axes)).reshape(shape)
    except (OSError, EOFError, ValueError, struct.error) as error:
        raise RunError(f"{path}: is no IDX file of bytes with {axes} axes, or is damaged ({error})") from error
    return torch.from_numpy(pixels.copy())
