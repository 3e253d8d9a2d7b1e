from __future__ import annotations

from pathlib import Path

import pytest
import torch
from conftest import Draw
from kdcore.errors import RunError

from kdcore_vision.data.folders import Folders
from kdcore_vision.data.listing import stable_id


def test_a_share_is_held_out_where_there_is_no_val_folder(folders: Path):
    data = Folders(path=folders, validation=0.3, test=0.2)
    assert data.split_sizes == {"train": 10, "val": 6, "test": 4}
    assert data.class_names == ("ant", "bee")
    assert data.split("val").labels.tolist() == [0, 0, 0, 1, 1, 1]
    ids = torch.cat([data.split(name).ids for name in ("train", "val", "test")])
    assert set(ids.tolist()) == {stable_id(f"{name}/{n}.png") for name in ("ant", "bee") for n in range(10)}


def test_the_recipe_s_seed_moves_no_picture(folders: Path):
    one, other = Folders(path=folders), Folders(path=folders)
    other.seed = 5
    assert one.split("val").ids.tolist() == other.split("val").ids.tolist()


def test_a_picture_keeps_its_id_when_others_come(folders: Path, picture: Draw):
    before = set(Folders(path=folders).split("train").ids.tolist())
    picture("pictures/ant/00.png")
    after = Folders(path=folders)
    assert len(before - set(after.split("train").ids.tolist()) - set(after.split("val").ids.tolist())) == 0


@pytest.fixture
def divided(tmp_path: Path, picture: Draw) -> Path:
    for split, count in (("train", 3), ("val", 2), ("test", 1)):
        for name in ("ant", "bee"):
            for number in range(count):
                picture(f"{split}/{name}/{number}.jpg")
    return tmp_path


def test_folders_that_are_divided_stay_so(divided: Path):
    data = Folders(path=divided, validation=0.5, test=0.4)
    assert data.split_sizes == {"train": 6, "val": 4, "test": 2}
    assert data.split("val").ids[0] == stable_id("val/ant/0.jpg")


def test_a_val_folder_may_lack(divided: Path):
    (divided / "val").rename(divided / "elsewhere")
    data = Folders(path=divided, validation=0.4, test=0.3)
    assert data.split_sizes == {"train": 4, "val": 2, "test": 2}
    assert data.split("test").ids[0] == stable_id("test/ant/0.jpg")


def test_a_class_that_only_validation_has(divided: Path, picture: Draw):
    picture("val/cow/0.jpg")
    with pytest.raises(RunError, match="val/cow: `cow` is none of the classes; known: ant, bee"):
        Folders(path=divided)


def test_a_class_that_validation_lacks_is_noted(divided: Path, picture: Draw):
    picture("train/cow/0.jpg")
    data = Folders(path=divided)
    assert data.notes == [
        "the split `val` has no picture of 1 of 3 classes: cow",
        "the split `test` has no picture of 1 of 3 classes: cow",
    ]


def test_classes_in_the_teacher_s_order(folders: Path):
    data = Folders(path=folders, class_names=["bee", "ant"])
    assert data.class_names == ("bee", "ant")
    assert data.split("val").labels.tolist() == [1, 0]
    with pytest.raises(RunError, match=r"pictures: `bee` is none of `class_names`; did you mean `bees`?"):
        Folders(path=folders, class_names=["ant", "bees"])


def test_grey_pictures_may_stay_grey(folders: Path):
    data = Folders(path=folders, channels=1)
    assert data.facts["channels"] == 1
    assert data.split("train").columns["image"].shape[1] == 1


def test_few_labels(folders: Path):
    data = Folders(path=folders, labels=4)
    assert (data.split("train").labels >= 0).sum() == 4
    assert len(data.split("train")) == 18


def test_labels_that_leave_a_class_without_one(folders: Path):
    with pytest.raises(ValueError, match=r"labels=1: give from 2 \(one for each class\) to 18"):
        Folders(path=folders, labels=1).split("train")
