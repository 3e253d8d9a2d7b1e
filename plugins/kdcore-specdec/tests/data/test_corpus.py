from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import torch
from files import tokenizer_folder

from kdcore.errors import RunError
from kdcore_specdec.data.corpus import FIRST_ID, Corpus
from kdcore_specdec.data.text import Text


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number in range(60):
        (tmp_path / f"{number:02}.txt").write_text(f"document {number}")
    return tmp_path


def documents(data: Corpus) -> dict[str, set[str]]:
    found = {}
    for name in ("train", "val", "test"):
        rows = data.split(name)  # type: ignore[arg-type]
        found[name] = (
            set() if rows is None else {data.tokenizer.decode(ids) for ids in rows.columns["input_ids"].tolist()}
        )
    return found


def test_every_document_is_in_one_split_whatever_the_seed(folder: Path) -> None:
    data = Text(path=folder, length=16, packed=False, validation=0.3, test=0.3)
    found = documents(data)
    assert sum(map(len, found.values())) == len(set.union(*found.values())) == 60
    assert min(map(len, found.values())) > 8
    data = Text(path=folder, length=16, packed=False, validation=0.3, test=0.3)
    data.seed = 7
    assert documents(data) == found


def test_a_new_document_moves_no_other_and_copies_stay_together(folder: Path) -> None:
    before = documents(Text(path=folder, length=16, packed=False, validation=0.3, test=0.3))
    (folder / "00a.txt").write_text("another one")
    for number in range(60):
        (folder / f"{number:02}-copy.txt").write_text(f"document {number}")
    data = Text(path=folder, length=16, packed=False, validation=0.3, test=0.3)
    after = documents(data)
    assert all(before[name] <= after[name] for name in before)
    assert sum(map(len, after.values())) == 61
    places = Counter(record.text for record in data.records())
    assert set(places.values()) == {1, 2}


def test_no_test_split(folder: Path) -> None:
    data = Text(path=folder, length=16, validation=0.3, test=0)
    assert data.split("test") is None
    assert not data.has_test


def test_ids_are_unique_and_stable(folder: Path) -> None:
    data = Text(path=folder, length=16, validation=0.3, test=0.3)
    ids = {name: data.split(name).columns["id"] for name in FIRST_ID}  # type: ignore[union-attr,arg-type]
    everything = torch.cat(list(ids.values()))
    assert len(everything.unique()) == len(everything)
    assert all(int(column[0]) == FIRST_ID[name] for name, column in ids.items())


def test_facts(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    assert Text(path=folder, length=16).facts == {
        "vocabulary": 261, "length": 16, "tokenizer_digest": "bytes", "packed": True,
        "end_token": 257, "pad_token": 256,
    }  # fmt: skip
    words = tokenizer_folder(tmp_path_factory.mktemp("words"))
    data = Text(path=folder, tokenizer=words, packed=False)
    assert data.facts["vocabulary"] == 8
    assert data.facts["tokenizer_digest"] == data.tokenizer.digest != "bytes"
    assert set(data.facts) <= set(Text.fact_names)


def test_counts_of_labels(folder: Path) -> None:
    data = Text(path=folder, length=16, packed=False, validation=0.3, test=0.3, count_tokens=True)
    data.setup("fit")
    labels = data.split("train").columns["labels"]  # type: ignore[union-attr]
    wanted = Counter(labels[labels != -100].tolist())
    assert data.facts["token_counts"] == [wanted[token] for token in range(261)]
    assert sum(wanted.values()) > 100


def test_an_empty_split_is_said(folder: Path) -> None:
    data = Text(path=folder, length=16, validation=0)
    with pytest.raises(
        RunError, match=r"no document is left for the val split, of 60 altogether: give more or smaller doc"
    ):
        data.split("train")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"tokenizer": Path("a"), "hub": "b/c"}, "`tokenizer` and `hub` both name a tokenizer: leave one of them out"),
        ({"length": 1}, "length=1: a row needs two tokens, one to read and one to predict"),
        ({"validation": 0.5, "test": 0.5}, "validation=0.5 and test=0.5: give shares of the documents that leave some"),
        ({"validation": -0.1}, "validation=-0.1 and test=0.05"),
        ({"batch_size": 0}, "batch_size=0: give at least 1"),
    ],
)
def test_settings_that_make_no_sense(folder: Path, given: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Text(path=folder, **given)  # type: ignore[arg-type]
    with pytest.raises(RunError, match="there is no such folder"):
        Text(path=folder, tokenizer=folder / "nothing")
