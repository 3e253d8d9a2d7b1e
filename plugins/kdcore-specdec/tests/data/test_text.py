from __future__ import annotations

from pathlib import Path

import pytest

from kdcore.errors import RunError
from kdcore_specdec.data.text import Text, files_of, paths_of_splits, read_text


def texts(data: Text) -> list[tuple[str, str]]:
    return [(record.where, record.text) for record in data.records()]


def test_a_file_is_a_document_or_several(tmp_path: Path) -> None:
    file = tmp_path / "x.txt"
    file.write_text("one\ntwo\n\nthree\n\nfour")
    assert texts(Text(path=file)) == [(f"{file}:1", "one\ntwo\n\nthree\n\nfour")]
    assert texts(Text(path=file, separator="\n\n")) == [
        (f"{file}:1", "one\ntwo"),
        (f"{file}:4", "three"),
        (f"{file}:6", "four"),
    ]


def test_a_document_ends_with_the_end_token_and_all_of_it_is_learnt(tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_text("hi")
    data = Text(path=tmp_path)
    (record,) = data.records()
    assert record.document.ids == [*b"hi", data.tokenizer.end]
    assert record.document.said is None


def test_an_empty_document(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("fine")
    (tmp_path / "b.txt").write_text("\n \n")
    with pytest.raises(RunError, match=r"b\.txt:1: this document is empty: remove it, or set `empty: skip`"):
        texts(Text(path=tmp_path))
    data = Text(path=tmp_path, empty="skip")
    assert [text for _, text in texts(data)] == ["fine"]
    with pytest.raises(RunError, match="no document is left for the val split, of 1 altogether"):
        data.split("train")


def test_files_of_a_folder_in_order(tmp_path: Path) -> None:
    for name in ("b.txt", "a.txt", "c.md", "deep/d.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    assert [text for _, text in texts(Text(path=tmp_path))] == ["a.txt", "b.txt", "deep/d.txt"]
    assert [text for _, text in texts(Text(path=tmp_path, pattern="*.md"))] == ["c.md"]


def test_no_files(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"no file in this folder matches `\*\.rst`"):
        files_of(tmp_path, "*.rst")
    with pytest.raises(RunError, match="nothing: there is no such file or folder"):
        files_of(tmp_path / "nothing", "*")


def test_what_is_not_utf8(tmp_path: Path) -> None:
    file = tmp_path / "x.txt"
    file.write_bytes(b"first\nsecond " + b"\xe9t\xe9")
    with pytest.raises(RunError, match=r"x\.txt:2: this is not UTF-8 \(byte 13\): convert the file"):
        read_text(file)


def test_what_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="cannot be read: Is a directory"):
        read_text(tmp_path)


def test_files_of_their_own_for_validation_and_test(tmp_path: Path) -> None:
    for name in ("train", "val", "test"):
        (tmp_path / f"{name}.txt").write_text("\n".join(f"{name} {n}" for n in range(20)))
    data = Text(
        path=tmp_path / "train.txt",
        val_path=tmp_path / "val.txt",
        test_path=tmp_path / "test.txt",
        separator="\n",
        length=8,
        packed=False,
    )
    assert [record.split for record in data.records()] == [None] * 20 + ["val"] * 20 + ["test"] * 20
    for name in ("train", "val", "test"):
        rows = data.split(name)
        assert rows is not None
        assert all(
            data.tokenizer.decode(ids).startswith(name) or name == "train" for ids in rows.columns["input_ids"].tolist()
        )
    with pytest.raises(ValueError, match="`path`, `val_path` and `test_path` must be different files"):
        paths_of_splits(tmp_path, tmp_path, None)


def test_a_separator_without_text(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="separator='': give some text, or leave it out"):
        Text(path=tmp_path, separator="")
