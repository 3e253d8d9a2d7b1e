"""Pictures that nobody has annotated, beside those of the other formats."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from kdcore.data.base import Treatment
from kdcore.data.mix import UNLABELLED_IDS, Mix
from kdcore.errors import RunError
from pictures import picture, turned_picture, write

from kdcore_detection.data.pictures import Pictures
from kdcore_detection.data.yolo import Yolo


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three pictures, one of them deeper, and a text."""
    for name in ("b.png", "a.JPG", "deep/c.png"):
        picture(tmp_path / "more" / name)
    write(tmp_path / "more" / "readme.txt", "no picture")
    return tmp_path / "more"


@pytest.fixture
def annotated(tmp_path: Path) -> Path:
    for name in "xyz":
        picture(tmp_path / "images" / f"{name}.png")
        write(tmp_path / "labels" / f"{name}.txt", "0 0.25 0.5 0.5 1\n")
    write(tmp_path / "data.yaml", "names: [dog]\ntrain: images\nval: images\n")
    return tmp_path


def test_all_of_a_folder_none_with_a_label(folder: Path):
    data = Pictures(path=folder)
    samples = data.split("train")
    assert len(samples) == 3
    assert not samples.labelled.any()
    assert data.split("val") is None
    assert data.class_names is None
    assert data.facts == {"channels": 3, "image_height": 40, "image_width": 60}
    assert set(data.fact_names) == set(data.facts)
    assert data.notes == []  # nobody has said that they show nothing
    sample = samples[0]
    assert not sample["boxes_known"]
    assert sample["boxes"].shape == (0, 4)
    green = (255 * samples[1]["image"][1, 0]).round().tolist()  # the second is b.png
    assert green == list(range(60))


@pytest.mark.parametrize("keep", ["memory", "disk"])
def test_a_mixture_with_annotated_ones(folder: Path, annotated: Path, keep: str):
    mixed = Mix(labelled=Yolo(path=annotated), unlabelled=Pictures(path=folder, keep=keep), batch_size=6)
    (batch,) = mixed.train_dataloader()
    hidden = batch["id"] >= UNLABELLED_IDS
    assert int(hidden.sum()) == 3
    assert batch["boxes_known"].tolist() == (~hidden).tolist()
    assert (batch["box_labels"][hidden] == -100).all()
    assert (batch["box_labels"][~hidden] == 0).all()
    assert mixed.facts["classes"] == 1
    mixed.treatment = Treatment(labelled=True)
    (batch,) = mixed.train_dataloader()
    assert len(batch["id"]) == 3
    assert batch["boxes_known"].all()


def test_pictures_are_turned_and_brought_to_one_size(folder: Path):
    turned_picture(folder / "turned.jpg")
    with pytest.raises(RunError, match=r"turned.jpg is 80x40, .*set `size: \[HEIGHT, WIDTH\]`"):
        Pictures(path=folder)
    data = Pictures(path=folder, size=(80, 40))
    turned = data.split("train")[3]["image"]
    assert turned.shape == (3, 80, 40)
    white = (turned.mean(0) > 0.5).nonzero()
    assert torch.equal(white.amin(0), torch.tensor([4, 26]))  # upright, as those see it who look at it


def test_what_cannot_be_read(folder: Path):
    write(folder / "bad.png", "no picture")
    with pytest.raises(RunError, match=r"bad\.png: .*bad: skip"):
        Pictures(path=folder)
    data = Pictures(path=folder, bad="skip")
    assert len(data.split("train")) == 3
    assert "1 of 4 samples of the split `train` were left out" in data.notes[0]


def test_what_is_not_there(tmp_path: Path):
    with pytest.raises(RunError, match="lost: there is no such folder"):
        Pictures(path=tmp_path / "lost")
    (tmp_path / "empty").mkdir()
    with pytest.raises(RunError, match=r"empty: holds no picture \(looked for \.jpg"):
        Pictures(path=tmp_path / "empty")
