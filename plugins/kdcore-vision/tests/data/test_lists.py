from __future__ import annotations

from pathlib import Path

import pytest
from kdcore.errors import RunError

from kdcore_vision.data.listing import stable_id
from kdcore_vision.data.lists import Lists, names_in, read_rows


@pytest.fixture
def table(folders: Path):
    def write(text: str, encoding: str = "utf-8") -> Path:
        path = folders.parent / "list.csv"
        path.write_bytes(text.encode(encoding))
        return path

    return write


ROWS = "".join(f"pictures/{name}/{n}.png,{name}\n" for name in ("bee", "ant") for n in range(10))


def test_a_list(table):
    data = Lists(path=table("path,label\n" + ROWS), validation=0.3, test=0.2)
    assert data.class_names == ("ant", "bee")
    assert data.split_sizes == {"train": 10, "val": 6, "test": 4}
    assert stable_id("pictures/ant/0.png") in {int(i) for n in ("train", "val", "test") for i in data.split(n).ids}
    assert data.split("val").columns["image"].shape == (6, 3, 6, 8)


def test_paths_may_be_relative_to_elsewhere(table, folders: Path):
    path = table("path,label\n" + ROWS.replace("pictures/", ""))
    assert Lists(path=path, root=folders).split_sizes == {"train": 18, "val": 2}


def test_a_list_may_say_the_split(table):
    text = "path,label,split\npictures/ant/0.png,ant,train\npictures/bee/0.png,bee,train\npictures/bee/1.png,bee,val\n"
    data = Lists(path=table(text))
    assert data.split_sizes == {"train": 2, "val": 1}
    assert data.notes == ["the split `val` has no picture of 1 of 2 classes: ant"]
    with pytest.raises(RunError, match=r"list.csv: no row has the split val"):
        Lists(path=table(text.replace(",val", ",train")))


def test_an_empty_label_is_none(table):
    data = Lists(path=table("path,label\n" + ROWS.replace("ant/0.png,ant", "ant/0.png,")))
    assert data.class_names == ("ant", "bee")
    assert (data.split("train").labels == -100).sum() == 1


def test_numbers_are_sorted_by_value():
    assert names_in([{"label": word} for word in ("10", "9", "", "10", "2")]) == ["2", "9", "10"]
    assert names_in([{"label": word} for word in ("10", "9", "x")]) == ["10", "9", "x"]


def test_a_mark_at_the_beginning_and_blanks_do_no_harm(table):
    rows = read_rows(table("path,label\n a.png , ant \n", "utf-8-sig"))
    assert rows == [{"path": "a.png", "label": "ant", "split": ""}]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"list.csv: its first line must name the columns path,label \(and split\), and has: nothing"),
        ("file,class\na,b\n", r"its first line must name the columns .*, and has: file, class"),
        ("path,label\n", r"list.csv: holds no picture"),
        ("path,label\n,ant\n", r"list.csv:2: has no path"),
        ("path,label\na,b\na\n", r"list.csv:3: has not as many values as there are columns"),
        ("path,label\na,b,c\n", r"list.csv:2: has not as many values as there are columns: quote what holds a comma"),
        ("path,label\na,x\nb,x\na,y\n", r"list.csv:4: a stands in line 2 already"),
        ("path,label,split\na,x,dev\n", r"list.csv:2: has the split `dev`: write train, val or test"),
    ],
)
def test_lists_that_are_wrong_say_the_line(table, text: str, message: str):
    with pytest.raises(RunError, match=message):
        read_rows(table(text))


def test_a_list_in_another_encoding(table):
    with pytest.raises(RunError, match=r"list.csv: is no CSV file in UTF-8 \('utf-8' codec"):
        read_rows(table("path,label\nbär.png,x\n", "latin-1"))


def test_a_list_that_is_not_there(tmp_path: Path):
    with pytest.raises(RunError, match=r"list.csv: there is no such file"):
        Lists(path=tmp_path / "list.csv")


def test_a_picture_that_is_not_there_is_named(table):
    data = Lists(path=table("path,label\n" + ROWS.replace("bee/3.png", "bee/33.png")), validation=0.5)
    with pytest.raises(RunError, match=r"pictures/bee/33.png: there is no such file. Mend it, or set `bad: skip`"):
        (data.split("train"), data.split("val"))
