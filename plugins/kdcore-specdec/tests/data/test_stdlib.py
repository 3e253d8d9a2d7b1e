from __future__ import annotations

import sysconfig
from pathlib import Path

import pytest

from kdcore.errors import RunError
from kdcore_specdec.data.stdlib import Stdlib


def library(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("a.py", "b.py", "json/__init__.py", "empty/__init__.py", "test/test_a.py", "site-packages/x.py"):
        (folder / name).parent.mkdir(exist_ok=True, parents=True)
        (folder / name).write_text("" if "empty" in name else f"# {name}\n" * 10)
    monkeypatch.setattr(sysconfig, "get_paths", lambda: {"stdlib": str(folder)})
    return folder


def test_the_sources_that_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = library(tmp_path, monkeypatch)
    records = list(Stdlib().records())
    assert {Path(record.where).relative_to(root).as_posix() for record in records} == {
        "a.py",
        "b.py",
        "json/__init__.py",
    }
    assert all(bytes(record.document.ids[:-1]).decode() == record.text for record in records)


def test_their_order_does_not_depend_on_where_they_lie(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = []
    for place in ("here", "there"):
        library(tmp_path / place, monkeypatch)
        texts.append([record.text for record in Stdlib().records()])
    assert texts[0] == texts[1]


def test_no_more_than_was_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library(tmp_path, monkeypatch)
    few, more = ([record.text for record in Stdlib(megabytes=size).records()] for size in (1e-6, 100e-6))
    assert len(few) == 1
    assert more[:1] == few
    assert len(more) == 2


def test_this_very_python() -> None:
    data = Stdlib(megabytes=0.5, validation=0.2, test=0.2, length=64)
    assert data.split_sizes["train"] > data.split_sizes["val"] > 0
    assert "import" in data.tokenizer.decode(data.split("train").columns["input_ids"].flatten().tolist())  # type: ignore[union-attr]


def test_a_python_without_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sysconfig, "get_paths", lambda: {"stdlib": str(tmp_path)})
    with pytest.raises(
        RunError, match=r"this Python has come without its sources: use `specdec.text` and text of your own"
    ):
        list(Stdlib().records())
    with pytest.raises(ValueError, match="megabytes=0: give more than 0"):
        Stdlib(megabytes=0)
