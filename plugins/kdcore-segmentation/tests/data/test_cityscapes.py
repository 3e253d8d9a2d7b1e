from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from kdcore.errors import RunError
from pictures import Draw

from kdcore_segmentation.data.cityscapes import CLASSES, Cityscapes


@pytest.fixture
def cityscapes(tmp_path: Path, image: Draw, mask: Draw) -> Path:
    """Two cities to train on, one for validation; the masks hold all ids from 0 to 33."""
    for place in ("train/aachen", "train/bochum", "val/lindau"):
        for frame in ("000000_000019", "000001_000019"):
            name = f"{place}/{place.rpartition('/')[2]}_{frame}"
            image(f"leftImg8bit/{name}_leftImg8bit.png")
            mask(f"gtFine/{name}_gtFine_labelIds.png", values=np.arange(48).reshape(6, 8) % 34)
    return tmp_path


def test_every_city_is_found(cityscapes: Path):
    data = Cityscapes(path=cityscapes)
    assert data.split_sizes == {"train": 4, "val": 2}
    assert data.split("train").ids.tolist() == [0, 1, 2, 3]
    assert data.split("val").ids.tolist() == [1 << 32, (1 << 32) + 1]
    assert not data.has_test


def test_ids_become_the_classes_that_are_trained(cityscapes: Path):
    data = Cityscapes(path=cityscapes)
    labels = data.split("train")[0]["labels"].flatten().tolist()
    by_hand = {7: 0, 8: 1, 11: 2, 12: 3, 13: 4, 17: 5, 19: 6, 20: 7, 21: 8, 22: 9, 23: 10, 24: 11, 25: 12, 26: 13}
    by_hand |= {27: 14, 28: 15, 31: 16, 32: 17, 33: 18}
    assert labels[:34] == [by_hand.get(value, -100) for value in range(34)]
    assert data.facts["classes"] == 19
    assert data.class_names == tuple(CLASSES)
    assert data.class_names[13] == "car"


def test_an_id_that_does_not_exist(cityscapes: Path, mask: Draw):
    mask("gtFine/val/lindau/lindau_000001_000019_gtFine_labelIds.png", values=np.full((6, 8), 34))
    with pytest.raises(RunError, match=r"lindau_000001_000019_gtFine_labelIds\.png: holds the value 34"):
        Cityscapes(path=cityscapes, keep="memory").split("val")
    with pytest.raises(RunError, match="holds the value 34"):
        list(Cityscapes(path=cityscapes).val_dataloader())


def test_a_mask_is_missing(cityscapes: Path):
    (cityscapes / "gtFine/train/bochum/bochum_000001_000019_gtFine_labelIds.png").unlink()
    with pytest.raises(RunError, match=r"bochum_000001_000019_gtFine_labelIds\.png: there is no such file"):
        Cityscapes(path=cityscapes).split("train")
    data = Cityscapes(path=cityscapes, bad="skip")
    assert data.split_sizes == {"train": 3, "val": 2}


def test_a_split_is_missing(cityscapes: Path):
    (cityscapes / "leftImg8bit/val").rename(cityscapes / "leftImg8bit/validation")
    with pytest.raises(RunError, match=r"leftImg8bit/val: holds no CITY/\*_leftImg8bit\.png"):
        Cityscapes(path=cityscapes)
