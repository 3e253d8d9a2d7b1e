from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from conftest import Draw
from kdcore.errors import RunError

from kdcore_vision.data.listing import (
    NO_LABEL,
    Picture,
    check_shares,
    checked_names,
    divisions,
    folder_names,
    held_out,
    in_class_folders,
    missing_classes,
    stable_id,
)


def made(label: int, count: int, first: int = 0) -> list[Picture]:
    return [Picture(Path(f"{label}/{n}"), label, stable_id(f"{label}/{n}")) for n in range(first, first + count)]


def test_an_id_depends_on_the_name_alone():
    assert stable_id("cat/1.jpg") == 1801658481409032297
    assert min(stable_id(str(n)) for n in range(1000)) >= 0
    assert max(stable_id(str(n)) for n in range(1000)) < 1 << 63
    assert len({stable_id(str(n)) for n in range(1000)}) == 1000


def test_a_folder_is_divided_where_it_holds_train(tmp_path: Path):
    assert divisions(tmp_path) == {"train": tmp_path}
    for name in ("train", "valid", "test"):
        (tmp_path / name).mkdir()
    assert divisions(tmp_path) == {name: tmp_path / folder for name, folder in
                                   (("train", "train"), ("val", "valid"), ("test", "test"))}  # fmt: skip
    (tmp_path / "val").mkdir()
    with pytest.raises(RunError, match="holds both val and valid: remove or rename one of them"):
        divisions(tmp_path)


def test_a_path_that_is_nowhere(tmp_path: Path):
    with pytest.raises(RunError, match="nowhere: there is no such folder"):
        divisions(tmp_path / "nowhere")


def test_classes_are_folders_in_sorted_order(tmp_path: Path):
    for name in ("bee", "Cat", ".hidden", "ant"):
        (tmp_path / name).mkdir()
    assert folder_names(tmp_path) == ["Cat", "ant", "bee"]


@pytest.mark.parametrize(
    ("names", "what"), [((), "there is no folder in it"), (("cat",), "the only folder there is `cat`")]
)
def test_fewer_than_two_classes(tmp_path: Path, names: tuple[str, ...], what: str):
    for name in names:
        (tmp_path / name).mkdir()
    with pytest.raises(RunError, match=f"holds one folder for each class, at least two; {what}"):
        folder_names(tmp_path)


def test_pictures_are_found_however_deep(folders: Path, picture: Draw):
    picture("pictures/ant/more/of/them/x.JPG")
    (folders / "ant" / "notes.txt").write_text("no picture")
    (folders / "ant" / "._1.jpg").write_text("of a Mac")
    found = in_class_folders(folders, ["bee", "ant"], folders)
    assert [one.label for one in found] == [1] * 11 + [0] * 10
    assert [one.path.name for one in found[:2]] == ["0.png", "1.png"]
    assert next(one for one in found if one.path.name == "x.JPG").id == stable_id("ant/more/of/them/x.JPG")


def test_a_class_folder_without_pictures_is_named(folders: Path):
    (folders / "cow").mkdir()
    with pytest.raises(
        RunError, match=r"pictures/cow: holds no picture \(looked for .jpg, .*\): put some in, or remove"
    ):
        in_class_folders(folders, ["ant", "bee", "cow"], folders)


def test_a_folder_that_is_no_class(folders: Path):
    with pytest.raises(RunError, match=r"pictures/bee: `bee` is none of the classes; did you mean `bees`?"):
        in_class_folders(folders, ["ant", "bees"], folders)


def test_a_share_of_each_class_is_held_out():
    found = held_out(made(0, 20) + made(1, 10), ["a", "b"], 0.2, 0.1, Path("x"))
    counts = {split: [sum(one.label == label for one in some) for label in (0, 1)] for split, some in found.items()}
    assert counts == {"train": [14, 7], "val": [4, 2], "test": [2, 1]}
    everything = [one for some in found.values() for one in some]
    assert sorted(everything, key=str) == sorted(made(0, 20) + made(1, 10), key=str)
    assert all(some == sorted(some, key=lambda one: one.path) for some in found.values())


def test_hardly_a_picture_moves_when_some_are_added():
    before = held_out(made(0, 100), ["a"], 0.1, 0.1, Path("x"))
    after = held_out(made(0, 101), ["a"], 0.1, 0.1, Path("x"))
    for split in ("val", "test"):
        assert len(set(before[split]) - set(after[split])) <= 1  # by row numbers it would be most of them


def test_small_classes_have_one_in_every_split():
    found = held_out(made(0, 3), ["a"], 0.01, 0.01, Path("x"))
    assert {split: len(some) for split, some in found.items()} == {"train": 1, "val": 1, "test": 1}


@pytest.mark.parametrize(("test", "needed"), [(0.1, 3), (0.0, 2)])
def test_a_class_that_is_too_small_is_named(test: float, needed: int):
    pictures = made(0, 9) + made(1, needed - 1)
    with pytest.raises(RunError, match=f"x: holds {needed - 1} of `b`, too few to hold some out: at least {needed}"):
        held_out(pictures, ["a", "b"], 0.1, test, Path("x"))


def test_pictures_without_a_label_are_all_for_training():
    found = held_out(made(0, 10) + made(NO_LABEL, 5), ["a"], 0.2, 0.0, Path("x"))
    assert sum(one.label == NO_LABEL for one in found["train"]) == 5
    assert all(one.label == 0 for one in found["val"])


@pytest.mark.parametrize(("validation", "test"), [(0.0, 0.1), (0.5, 0.5), (0.1, -0.1)])
def test_shares_must_leave_some_to_train_on(validation: float, test: float):
    with pytest.raises(ValueError, match=rf"validation={validation} and test={test}: give shares of the pictures"):
        check_shares(validation, test)


def test_classes_in_another_order():
    assert checked_names(["b", "a"], ["a", "b"], Path("x")) == ["b", "a"]
    assert checked_names(None, ["a", "b"], Path("x")) == ["a", "b"]


def test_names_that_are_not_those_of_the_folders():
    with pytest.raises(RunError, match=r"x: `ants` is none of `class_names`; did you mean `ant`?"):
        checked_names(["ant", "bee"], ["ants", "bee"], Path("x"))
    with pytest.raises(RunError, match="x: has no picture of `cow` of `class_names`"):
        checked_names(["ant", "bee", "cow"], ["ant", "bee"], Path("x"))
    with pytest.raises(ValueError, match="class_names: `ant` stands there twice"):
        checked_names(["ant", "ant"], ["ant"], Path("x"))


def test_a_split_that_lacks_a_class_is_noted():
    assert missing_classes({"train": made(0, 1) + made(1, 1), "val": made(1, 1)}, ["a", "b"]) == [
        "the split `val` has no picture of 1 of 2 classes: a"
    ]


def test_it_imports_no_torch():
    code = "import sys, kdcore_vision.data.listing; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
