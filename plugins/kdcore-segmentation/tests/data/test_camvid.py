from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from kdcore.errors import RunError
from pictures import Draw

from kdcore_segmentation.data.camvid import CamVid


@pytest.fixture
def camvid(tmp_path: Path, image: Draw, mask: Draw) -> Path:
    for split, count in (("train", 3), ("val", 2), ("test", 1)):
        for number in range(count):
            image(f"{split}/{number}.jpg")
            mask(f"{split}annot/{number}.png", values=np.arange(48).reshape(6, 8) % 12)
    return tmp_path


def test_eleven_classes_and_one_value_for_none(camvid: Path):
    data = CamVid(path=camvid)
    assert data.split_sizes == {"train": 3, "val": 2, "test": 1}
    assert data.facts == {"classes": 11, "channels": 3, "image_height": 6, "image_width": 8}
    labels = data.split("test").__getitems__([0])["labels"]
    assert labels[0].flatten()[:12].tolist() == [*range(11), -100]


def test_names_stand_in_the_order_of_the_numbers(camvid: Path):
    names = CamVid(path=camvid).class_names
    assert names is not None
    assert (len(names), names[0], names[3], names[10]) == (11, "sky", "road", "bicyclist")


def test_a_value_that_is_none_of_them(camvid: Path, mask: Draw):
    mask("trainannot/1.png", values=np.full((6, 8), 12))
    with pytest.raises(RunError, match=r"1\.png: holds the value 12, .*: known are 0 to 10, and 11 for none"):
        CamVid(path=camvid).split("train")


def test_a_folder_is_missing(camvid: Path):
    (camvid / "valannot").rename(camvid / "val_labels")
    with pytest.raises(RunError, match="valannot: there is no such folder"):
        CamVid(path=camvid)


@pytest.mark.skipif("KDCORE_DATA" not in os.environ, reason="the environment names no KDCORE_DATA with real CamVid")
def test_the_real_one():
    data = CamVid(path=Path(os.environ["KDCORE_DATA"]) / "segmentation" / "camvid", size=(32, 48), keep="disk")
    assert data.split_sizes == {"train": 367, "val": 101, "test": 233}
    sample = data.split("train")[0]
    assert sample["image"].shape == (3, 32, 48)
    sky, road = (sample["labels"] == 0).nonzero()[:, 0], (sample["labels"] == 3).nonzero()[:, 0]
    assert sky.float().mean() < road.float().mean()  # the sky is above the road
