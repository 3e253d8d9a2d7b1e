from __future__ import annotations

import json
from pathlib import Path

import pytest
from kdcore.errors import RunError

from kdcore_speech.vocabulary import Vocabulary

LETTERS = Vocabulary.of("abc ", "character")
WORDS = Vocabulary.of(["one", "two"], "word")


def test_text_to_numbers_and_back():
    assert LETTERS.encode("cab a") == [3, 1, 2, 4, 1]
    assert LETTERS.decode([3, 1, 2, 4, 1]) == "cab a"
    assert WORDS.encode("two one two") == [2, 1, 2]
    assert WORDS.decode([2, 1, 2]) == "two one two"


def test_what_is_no_symbol_is_not_decoded():
    assert LETTERS.decode([1, 0, 2, -100, 99]) == "ab"


def test_every_class_has_a_name():
    assert WORDS.names == ("<blank>", "one", "two")
    assert len(WORDS) == 3


def test_symbols_of_texts_in_alphabetical_order():
    assert Vocabulary.of_texts(["ba", "b c"], "character").symbols == ("", " ", "a", "b", "c")
    assert Vocabulary.of_texts(["two one", "one"], "word").symbols == ("", "one", "two")


def test_symbols_outside_are_named():
    message = r"the transcript 'cab!x' holds '!', 'x', which the vocabulary of 4 symbols lacks"
    with pytest.raises(ValueError, match=message):
        LETTERS.encode("cab!x")
    with pytest.raises(ValueError, match="holds 'three'"):
        WORDS.encode("one three")


def test_a_symbol_twice_is_refused():
    with pytest.raises(ValueError, match="the vocabulary holds 'a' twice"):
        Vocabulary(("", "a", "a"))


def test_a_text_file_has_the_blank_first(tmp_path: Path):
    file = tmp_path / "symbols.txt"
    file.write_text("<blank>\none\ntwo\n", encoding="utf-8")
    assert Vocabulary.read(file, "word") == WORDS
    file.write_text("\na\nb\nc\n ", encoding="utf-8")
    assert Vocabulary.read(file, "character") == LETTERS


def test_a_model_of_transformers_has_its_own_blank_and_space(tmp_path: Path):
    numbers = {"<s>": 1, "[PAD]": 3, "A": 0, "|": 2}
    (tmp_path / "vocab.json").write_text(json.dumps(numbers), encoding="utf-8")
    found = Vocabulary.read(tmp_path, "word")
    assert found == Vocabulary(("A", "<s>", " ", ""), 3, "")
    assert found.decode([0, 3, 2, 0]) == "A A"
    assert Vocabulary.read(tmp_path / "vocab.json", "character") == found


def test_whisper_s_is_in_its_tokenizer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for name in ("vocab.json", "tokenizer.json"):
        (tmp_path / name).write_text('{"a": 0}', encoding="utf-8")
    monkeypatch.setattr("kdcore_speech.byte_pairs.read_byte_pairs", lambda folder: (folder, LETTERS))
    assert Vocabulary.read(tmp_path, "character") == (tmp_path, LETTERS)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", "<blank>\n", r"a\.txt: write the blank in the first line, and then a symbol in each"),
        ("a.txt", "<blank>\na\n\nb\n", r"none of them empty"),
        ("vocab.json", "[1]", r"vocab\.json: is no vocabulary: a JSON object from symbols to numbers is wanted"),
        ("vocab.json", "{", r"vocab\.json: is no vocabulary"),
        ("vocab.json", '{"a": "x"}', r"vocab\.json: is no vocabulary"),
        ("vocab.json", '{"a": 0, "b": 2}', r"its numbers are not 0 to 1, each once"),
        ("vocab.json", '{"a": 0}', r"has neither \[PAD\] nor <pad>, which is the blank"),
    ],
)
def test_files_that_are_none_are_refused(tmp_path: Path, name: str, content: str, message: str):
    (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(RunError, match=message):
        Vocabulary.read(tmp_path / name, "character")


def test_a_missing_file_is_named(tmp_path: Path):
    with pytest.raises(RunError, match=r"gone\.txt: the vocabulary cannot be read \(FileNotFoundError\)"):
        Vocabulary.read(tmp_path / "gone.txt", "character")
    with pytest.raises(RunError, match=r"vocab\.json: the vocabulary cannot be read"):
        Vocabulary.read(tmp_path, "character")
