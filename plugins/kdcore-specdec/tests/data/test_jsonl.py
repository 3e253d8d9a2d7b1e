from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from files import jsonl, tokenizer_folder

from kdcore.errors import RunError
from kdcore_specdec.data.jsonl import Fields, Jsonl, samples_of, tokens_of
from kdcore_specdec.sources import on_disk
from kdcore_specdec.tokenizers import Bytes, load

FIELDS = Fields("prompt", "answer")
BYTES = Bytes()


def spoken(sample: Any, *, chat: bool = False, fields: Fields = FIELDS) -> tuple[str, str]:
    """All of its text, and what of it is learnt."""
    document = tokens_of(sample, BYTES, fields, chat=chat)
    said = [True] * len(document.ids) if document.said is None else document.said
    return BYTES.decode(document.ids), BYTES.decode([one for one, mine in zip(document.ids, said, strict=True) if mine])


@pytest.mark.parametrize("chat", [True, False])
def test_what_a_sample_may_be(chat: bool) -> None:
    assert spoken({"text": "hello"}) == ("hello", "hello")
    assert spoken({"prompt": "2+2=", "answer": "4"}, chat=chat) == ("2+2=4", "4")
    turns = [("system", "S"), ("user", "U"), ("assistant", "A"), ("user", "V"), ("assistant", "B")]
    assert spoken({"messages": [{"role": who, "content": what} for who, what in turns]}) == ("SUAVB", "AB")
    shared = [("system", "S"), ("human", "U"), ("gpt", "A"), ("user", "V"), ("assistant", "B")]
    assert spoken({"conversations": [{"from": who, "value": what} for who, what in shared]}) == ("SUAVB", "AB")


def test_an_answer_ends_with_the_end_token_which_is_learnt() -> None:
    document = tokens_of({"prompt": "p", "answer": "a"}, BYTES, FIELDS, chat=False)
    assert document.ids == [*b"pa", BYTES.end]
    assert document.said == [False, True, True]


def test_other_names_of_the_fields() -> None:
    assert spoken({"question": "q", "answer": "a"}, fields=Fields("question", "answer")) == ("qa", "a")


def test_through_the_tokenizers_template(tmp_path: Path) -> None:
    words = load(on_disk(tokenizer_folder(tmp_path / "words")))
    document = tokens_of({"prompt": "a b", "answer": "c"}, words, FIELDS, chat=True)
    assert words.tokenizer.convert_ids_to_tokens(document.ids) == [  # type: ignore[attr-defined]
        "<user>", "a", "b", "<end>", "<assistant>", "c", "<end>",
    ]  # fmt: skip
    assert document.said == [False] * 5 + [True, True]


@pytest.mark.parametrize(
    ("sample", "message"),
    [
        (3, "this sample is int, not an object with fields"),
        (
            {"txt": "x"},
            "this sample has the fields txt: it needs `text`, `prompt` and `answer`, `messages` or `conversa",
        ),
        ({}, "this sample has the fields none: it needs"),
        ({"text": 3}, "`text` is int, not text"),
        ({"messages": "x"}, "`messages` is no list of objects"),
        ({"conversations": ["x"]}, "`conversations` is no list of objects"),
        ({"messages": [{"role": "user"}]}, "turn 1 needs `role` and `content`, it has role"),
        ({"conversations": [{}]}, "turn 1 needs `from` and `value`, it has nothing"),
        (
            {"conversations": [{"from": "bot", "value": "x"}]},
            "turn 1 is from `bot`: known are human, user, gpt, assist",
        ),
        ({"messages": [{"role": "user", "content": ["x"]}]}, "`content` is list, not text"),
        (
            {"messages": [{"role": "tool", "content": "x"}, {"role": "assistant", "content": "y"}]},
            "the role `tool` is unknown to the byte tokenizer",
        ),
    ],
)
def test_what_is_no_sample(tmp_path: Path, sample: Any, message: str) -> None:
    file = jsonl(tmp_path / "x.jsonl", {"text": "fine"}, sample)
    with pytest.raises(RunError) as caught:
        list(Jsonl(path=file, length=32).records())
    assert str(caught.value).startswith(f"{file}:2: {message}")


def test_lines_and_arrays(tmp_path: Path) -> None:
    lines = tmp_path / "lines.jsonl"
    lines.write_text('{"text": "a"}\n\n{"text": "b"}\n')
    assert list(samples_of(lines)) == [(1, {"text": "a"}), (3, {"text": "b"})]
    array = tmp_path / "array.json"
    array.write_text('\n[\n  {"text": "a"},\n  {"text":\n "b"}, 3\n]\n')
    assert list(samples_of(array)) == [(3, {"text": "a"}), (4, {"text": "b"}), (5, 3)]
    array.write_text("[]")
    assert list(samples_of(array)) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"text": "a"}\n{"text": \n', "2: this line is no JSON: Expecting value (column 10): write one object a line"),
        ("hello\n", "1: this line is no JSON: Expecting value (column 1)"),
        ('[\n{"text": "a"},\n{"text" "b"}]', "3: this array is no JSON: Expecting ':' delimiter (column 9)"),
        ('[\n{"text": "a"}\n{"text": "b"}]', "3: this array is no JSON: Expecting ',' or ']' (column 1)"),
        ('[\n{"text": "a"}', "2: this array is no JSON: Expecting ',' or ']' (column 14)"),
        ('[\n{"text": "a"},\n', "3: this array is no JSON: Expecting ']' (column 1)"),
    ],
)
def test_what_is_no_json(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "x.json"
    file.write_text(text)
    with pytest.raises(RunError) as caught:
        list(samples_of(file))
    assert str(caught.value).startswith(f"{file}:{message}")


EMPTY = [
    {"text": " \n"},
    {"prompt": "p", "answer": " "},
    {"messages": [{"role": "user", "content": "x"}]},
    {"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": ""}]},
]


@pytest.mark.parametrize("sample", EMPTY)
@pytest.mark.parametrize("chat", [True, False])
def test_nothing_to_learn(tmp_path: Path, sample: Any, chat: bool) -> None:
    file = jsonl(tmp_path / "x.jsonl", {"text": "a"}, sample)
    with pytest.raises(
        RunError, match=f"{file}:2: in this sample there is nothing to learn: remove it, or set `empty:"
    ):
        list(Jsonl(path=file, chat=chat).records())
    assert len(list(Jsonl(path=file, chat=chat, empty="skip").records())) == 1


def test_a_sample_longer_than_a_row(tmp_path: Path) -> None:
    long = {"prompt": "p" * 10, "answer": "a" * 10}
    file = jsonl(tmp_path / "x.jsonl", {"text": "abc"}, long, {"prompt": "p" * 30, "answer": "a"})
    with pytest.raises(RunError, match=f"{file}:2: this sample has 21 tokens, and a row 16: set `length` higher"):
        list(Jsonl(path=file, chat=False, length=16).records())
    assert [one.where for one in Jsonl(path=file, chat=False, length=16, long="skip").records()] == [f"{file}:1"]
    _, cut = Jsonl(path=file, chat=False, length=16, long="cut").records()  # of the third only the prompt would be left
    assert cut.where == f"{file}:2"
    assert cut.document.ids == [*b"p" * 10, *b"a" * 6]
    assert cut.document.said == [False] * 10 + [True] * 6


def test_rows_of_answers(tmp_path: Path) -> None:
    samples = [{"prompt": f"{n}+{n}=", "answer": str(2 * n)} for n in range(40)]
    data = Jsonl(path=jsonl(tmp_path / "x.jsonl", *samples), chat=False, length=20, validation=0.2, test=0.2)
    rows = data.split("train")
    assert rows is not None
    labels, ids, segment = (rows.columns[name] for name in ("labels", "input_ids", "segment"))
    for row, at in (labels != -100).nonzero().tolist():
        assert labels[row, at] == ids[row, at + 1]
        assert segment[row, at] == segment[row, at + 1]
    # what is learnt are digits and the end token, never the plus or the equals sign
    assert set(labels[labels != -100].tolist()) <= {*b"0123456789", BYTES.end}
    alone = Jsonl(path=tmp_path / "x.jsonl", chat=False, length=20, packed=False, validation=0.2, test=0.2).split(
        "train"
    )
    assert alone is not None
    assert int(alone.columns["segment"].max()) == 1
    assert torch.equal((labels != -100).sum(), (alone.columns["labels"] != -100).sum())


def test_a_folder_of_both_kinds(tmp_path: Path) -> None:
    jsonl(tmp_path / "b.jsonl", {"text": "b"})
    (tmp_path / "a.json").write_text(json.dumps([{"text": "a"}]))
    (tmp_path / "note.txt").write_text("no sample")
    assert [record.text for record in Jsonl(path=tmp_path).records()] == ['{"text": "a"}', '{"text": "b"}']


def test_what_was_left_out_is_said(tmp_path: Path) -> None:
    samples = [{"prompt": f"{n}?", "answer": "a" * 20 if n < 3 else "yes" if n < 40 else ""} for n in range(45)]
    file = jsonl(tmp_path / "x.jsonl", *samples)
    for long, said in (("skip", "left out"), ("cut", "cut")):
        data = Jsonl(path=file, chat=False, length=16, long=long, empty="skip", validation=0.3, test=0)
        assert data.has_test is False
        assert data.notes == [
            f"3 samples of more than 16 tokens, {said}",
            "5 samples without anything to learn, left out",
        ]
