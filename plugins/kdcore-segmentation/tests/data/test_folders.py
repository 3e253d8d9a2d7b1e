from __future__ import annotations

from pathlib import Path

import pytest
from kdcore.errors import RunError
from pictures import Draw

from kdcore_segmentation.data.folders import Folders


def test_a_share_is_held_out_where_there_is_no_val_folder(folders: Path):
    data = Folders(path=folders, classes=3, validation=0.3, test=0.2)
    assert data.split_sizes == {"train": 5, "val": 3, "test": 2}
    ids = [int(i) for name in ("train", "val", "test") for i in data.split(name).ids]
    assert sorted(ids) == list(range(10))


def test_the_recipe_s_seed_moves_no_image(folders: Path):
    one, other = Folders(path=folders, classes=3), Folders(path=folders, classes=3)
    other.seed = 5
    assert one.split("val").ids.tolist() == other.split("val").ids.tolist()


@pytest.fixture
def divided(tmp_path: Path, image: Draw, mask: Draw) -> Path:
    for split, count in (("train", 3), ("val", 2), ("test", 1)):
        for number in range(count):
            image(f"images/{split}/{number}.jpg")
            mask(f"masks/{split}/{number}.png")
    return tmp_path


def test_folders_that_are_divided_stay_so(divided: Path):
    data = Folders(path=divided, classes=3, validation=0.5, test=0.5)
    assert data.split_sizes == {"train": 3, "val": 2, "test": 1}
    assert data.split("val").ids.tolist() == [1 << 32, (1 << 32) + 1]


def test_a_test_folder_may_lack_and_a_val_folder_not(divided: Path):
    for kind in ("images", "masks"):
        (divided / kind / "test").rename(divided / kind / "elsewhere")
    assert not Folders(path=divided, classes=3).has_test
    (divided / "images" / "val").rename(divided / "images" / "validation")
    with pytest.raises(RunError, match=r"images/val: there is no such folder"):
        Folders(path=divided, classes=3)


def test_classes_may_have_names(folders: Path):
    data = Folders(path=folders, class_names=["a", "b", "c"])
    assert data.class_names == ("a", "b", "c")
    assert data.facts["classes"] == 3
    assert Folders(path=folders, classes=3).class_names is None


def test_the_number_of_classes_must_be_known(folders: Path):
    with pytest.raises(ValueError, match="say how many `classes` there are, or give their `class_names`"):
        Folders(path=folders)
    with pytest.raises(ValueError, match=r"classes=3, but `class_names` has 2: a, b"):
        Folders(path=folders, classes=3, class_names=["a", "b"])


def test_other_values_can_stand_for_no_class(folders: Path, mask: Draw):
    assert (Folders(path=folders, classes=2, ignore=[2]).split("val").__getitems__([0])["labels"] == -100).sum() == 16
    with pytest.raises(ValueError, match=r"ignore=\[1\]: 1 is one of the classes"):
        Folders(path=folders, classes=3, ignore=[1])


def test_a_value_is_not_ignored_by_chance(folders: Path):
    with pytest.raises(RunError, match="holds the value 2, which is no class: known are 0 to 1, and 255 for none"):
        Folders(path=folders, classes=2).split("train")


def test_a_folder_without_masks(folders: Path):
    (folders / "masks").rename(folders / "labels")
    with pytest.raises(RunError, match="masks: there is no such folder"):
        Folders(path=folders, classes=3)


def test_a_path_that_is_nowhere(tmp_path: Path):
    with pytest.raises(RunError, match="nowhere/masks: there is no such folder"):
        Folders(path=tmp_path / "nowhere", classes=3)
