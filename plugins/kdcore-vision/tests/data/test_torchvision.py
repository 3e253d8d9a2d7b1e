from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Draw, write_idx
from kdcore.data.bad import BadSampleError
from kdcore.errors import RunError

from kdcore_vision.data.torchvision import SetShelf, Torchvision, targets_of


@pytest.fixture
def mnist(tmp_path: Path, fashion: Path) -> Path:
    """The files where torchvision looks for them."""
    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for name, count in (("train", 120), ("t10k", 30)):
        labels = (np.arange(count) % 10).astype(np.uint8)
        write_idx(raw / f"{name}-labels-idx1-ubyte", labels)
        write_idx(raw / f"{name}-images-idx3-ubyte", np.full((count, 28, 28), 7, np.uint8))
    return tmp_path


def test_a_set_that_is_on_disk(mnist: Path):
    data = Torchvision(name="FashionMNIST", path=mnist, channels=1, validation=0.2)
    assert data.split_sizes == {"train": 100, "val": 20, "test": 30}
    assert data.class_names[9] == "Ankle boot"
    assert torch.bincount(data.split("val").labels).tolist() == [2] * 10
    assert data.split("test").ids[:2].tolist() == [2 << 32, (2 << 32) + 1]
    assert (data.split("train").columns["image"] == 7).all()
    rows = torch.cat([data.split("train").ids, data.split("val").ids])
    assert sorted(rows.tolist()) == list(range(120))


def test_names_in_the_teacher_s_order(mnist: Path):
    names = ["Ankle boot", *Torchvision(name="FashionMNIST", path=mnist, channels=1).class_names[:9]]
    data = Torchvision(name="FashionMNIST", path=mnist, channels=1, class_names=names)
    assert data.split("test").labels[:10].tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9, 0]


def test_nothing_is_downloaded(tmp_path: Path):
    with pytest.raises(RunError, match=r"torchvision does not find CIFAR10 there \(RuntimeError: .*; nothing is downl"):
        Torchvision(name="CIFAR10", path=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_name_that_is_none(tmp_path: Path):
    with pytest.raises(
        RunError, match=r"torchvision.datasets has no data set `Cifar10` of pictures; did you mean `CIFAR10`"
    ):
        Torchvision(name="Cifar10", path=tmp_path)


@pytest.mark.parametrize("option", ["train", "download", "transform"])
def test_options_that_are_not_for_the_recipe(mnist: Path, option: str):
    with pytest.raises(RunError, match=f"options.{option}: is set by vision.torchvision itself"):
        Torchvision(name="FashionMNIST", path=mnist, options={option: True})


def test_sets_with_a_split_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, picture: Draw):
    from PIL import Image
    from torchvision import datasets

    class Flowers(datasets.VisionDataset):
        def __init__(self, root: str, split: str = "train", transform: object = None, download: bool = False) -> None:
            if split not in ("train", "val", "test"):
                raise ValueError(f"no split {split}")
            super().__init__(root)
            self.count = {"train": 6, "val": 4, "test": 2}[split]
            self._labels = [n % 2 for n in range(self.count)]

        def __len__(self) -> int:
            return self.count

        def __getitem__(self, row: int) -> tuple[Image.Image, int]:
            return Image.new("L", (4, 4), row), self._labels[row]

    monkeypatch.setattr(datasets, "Flowers", Flowers, raising=False)
    data = Torchvision(name="Flowers", path=tmp_path)
    assert data.split_sizes == {"train": 6, "val": 4, "test": 2}
    assert data.class_names == ("0", "1")
    assert data.split("val").columns["image"][:, 0, 0, 0].tolist() == [0, 1, 2, 3]
    assert "of 4 pictures of the split `val` these were converted to RGB: 4 grey" in data.notes


class Fake:
    def __init__(self, targets: list[object]) -> None:
        self.values = targets

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, row: int) -> tuple[None, object]:
        return None, self.values[row]


def test_targets_are_read_one_by_one_where_they_are_not_told():
    assert targets_of(Fake([2, 0, 1]), "x") == [2, 0, 1]


def test_targets_that_are_no_classes():
    with pytest.raises(RunError, match=r"x: gives targets of shape \(2, 2\), not one class number for each picture"):
        targets_of(Fake([[1, 0], [0, 1]]), "x")


class Cracked:
    """A set of torchvision's whose first picture breaks off, and whose second is none."""

    def __getitem__(self, row: int) -> tuple[object, int]:
        if row == 0:
            raise OSError("image file is truncated\nby 3 bytes")
        return torch.zeros(3, 4, 4), 0


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (0, r"cannot be read \(OSError: image file is truncated\)$"),
        (1, "is a Tensor, not a picture$"),
    ],
)
def test_a_picture_that_the_set_cannot_give(row: int, message: str):
    shelf = SetShelf(Cracked(), "Cracked", [0, 1], torch.zeros(2), torch.arange(2))
    with pytest.raises(BadSampleError, match=message):
        shelf.picture(row)
