"""JSONL files and JSON arrays: text, questions with answers, conversations."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

from kdcore.data.base import Split
from kdcore.errors import RunError
from kdcore_specdec.data.corpus import Careful, Corpus, Record
from kdcore_specdec.data.packing import Document
from kdcore_specdec.data.text import files_of, paths_of_splits, read_text
from kdcore_specdec.tokenizers import Message, Tokenizer

SHAREGPT = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}
"""ShareGPT's names of who speaks, and those of everybody else."""


class Fields(NamedTuple):
    """What the fields of a question with its answer are called."""

    prompt: str
    answer: str


class Jsonl(Corpus):
    """Samples in JSON, one a line or in one array; what a sample is, its fields tell:

    - ``text``: every token is learnt;
    - ``prompt`` and ``answer``: the answer is learnt;
    - ``messages``, each with ``role`` and ``content``, or ShareGPT's ``conversations``, each with ``from`` and
      ``value``: what the assistant says is learnt, and the tokenizer's chat template is applied.

    Args:
        path: a file, or a folder with files ``.jsonl`` or ``.json``.
        val_path: a file or folder for validation; otherwise ``validation`` is held out.
        test_path: likewise for the test.
        prompt: the name of the field ``prompt``.
        answer: the name of the field ``answer``.
        chat: prompt and answer are a conversation, to which the chat template is applied too; else they are joined.
        empty: what to do with a sample in which there is nothing to learn.
        long: what to do with a sample of more than ``length`` tokens; ``cut`` keeps its beginning.
        batch_size: rows in a batch, over all devices together.
        length: tokens in a row.
        tokenizer: the folder, or ``.gguf`` file, of a model whose tokenizer is used.
        hub: the same, ``owner/name@revision`` on the hub. Without either, tokens are bytes.
        packed: several samples share a row, without seeing each other; else each has a row of its own.
        validation: share of the samples of ``path`` held out for validation.
        test: share held out for the test; 0 for no test split.
        count_tokens: count how often each token is a label in training (the fact ``token_counts``), for drafts with a
            smaller vocabulary.

    Raises:
        RunError: a file that is missing or no JSON, a sample that is none of the above, empty or too long; the message
            names file and line.
        ValueError: two tokenizers, rows without room, or shares that leave nothing to train on.
    """

    fact_names: ClassVar[tuple[str, ...]] = (
        "vocabulary", "length", "tokenizer_digest", "packed", "end_token", "pad_token", "token_counts",
    )  # fmt: skip

    def __init__(
        self,
        *,
        path: Path,
        val_path: Path | None = None,
        test_path: Path | None = None,
        prompt: str = "prompt",
        answer: str = "answer",
        chat: bool = True,
        empty: Careful = "error",
        long: Literal["error", "skip", "cut"] = "error",
        batch_size: int = 16,
        length: int = 512,
        tokenizer: Path | None = None,
        hub: str | None = None,
        packed: bool = True,
        validation: float = 0.05,
        test: float = 0.05,
        count_tokens: bool = False,
    ) -> None:
        super().__init__(
            batch_size=batch_size,
            count_tokens=count_tokens,
            length=length,
            tokenizer=tokenizer,
            hub=hub,
            packed=packed,
            whole=True,
            validation=0.0 if val_path else validation,
            test=0.0 if test_path else test,
        )
        self._paths = paths_of_splits(path, val_path, test_path)
        self._fields, self._chat = Fields(prompt, answer), chat
        self._empty, self._long = empty, long

    def records(self) -> Iterator[Record]:
        for path, split in self._paths.items():
            for file in files_of(path, "**/*.json*"):
                yield from self._of_file(file, split)

    def _of_file(self, file: Path, split: Split | None) -> Iterator[Record]:
        for line, sample in samples_of(file):
            where = f"{file}:{line}"
            try:
                document = tokens_of(sample, self.tokenizer, self._fields, chat=self._chat)
            except (ValueError, KeyError, TypeError) as error:
                raise RunError(f"{where}: {error.args[0] if error.args else error}") from error
            fitting = self._fitting(document, where)
            if fitting is not None:
                yield Record(where, json.dumps(sample, sort_keys=True), fitting, split)

    def _fitting(self, document: Document, where: str) -> Document | None:
        """The document as it can be used, if it can."""
        if len(document.ids) > self.length:
            if self._long == "error":
                raise RunError(
                    f"{where}: this sample has {len(document.ids)} tokens, and a row {self.length}: set `length` "
                    "higher (up to the models' context), or `long: cut` or `long: skip`"
                )
            self.leave_out(f"samples of more than {self.length} tokens, {'cut' if self._long == 'cut' else 'left out'}")
            document = document.part(0, self.length if self._long == "cut" else 0)
            if not document.teaches:
                return None
        if not document.teaches:
            if self._empty == "error":
                raise RunError(f"{where}: in this sample there is nothing to learn: remove it, or set `empty: skip`")
            self.leave_out("samples without anything to learn, left out")
            return None
        return document


def samples_of(file: Path) -> Iterator[tuple[int, Any]]:
    """Every sample with the line it begins in, of a file with one a line or of one array.

    Raises:
        RunError: it is no JSON.
    """
    text = read_text(file)
    if text.lstrip().startswith("["):
        yield from _of_array(file, text)
        return
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            try:
                yield number, json.loads(line)
            except json.JSONDecodeError as error:
                raise RunError(
                    f"{file}:{number}: this line is no JSON: {error.msg} (column {error.colno}): write one object a "
                    "line, or one array"
                ) from error


def _of_array(file: Path, text: str) -> Iterator[tuple[int, Any]]:
    """Item by item, because json's own reading forgets where an item was."""
    decoder, at, line, seen = json.JSONDecoder(), text.index("[") + 1, 1, 0
    try:
        while (at := _next(text, at)) < len(text) and text[at] != "]":
            line, seen = line + text.count("\n", seen, at), at
            item, at = decoder.raw_decode(text, at)
            yield line, item
            at = _next(text, at)
            if text[at : at + 1] not in (",", "]"):
                raise json.JSONDecodeError("Expecting ',' or ']'", text, min(at, len(text)))
            at += text[at] == ","
        if at >= len(text):
            raise json.JSONDecodeError("Expecting ']'", text, len(text))
    except json.JSONDecodeError as error:
        raise RunError(f"{file}:{error.lineno}: this array is no JSON: {error.msg} (column {error.colno})") from error


def _next(text: str, at: int) -> int:
    while at < len(text) and text[at] in " \t\r\n":
        at += 1
    return at


def tokens_of(sample: Any, tokenizer: Tokenizer, fields: Fields, *, chat: bool) -> Document:
    """A sample's tokens, and which of them are learnt.

    Raises:
        ValueError: it is no sample, or the tokenizer cannot put it into words.
    """
    if not isinstance(sample, dict):
        raise ValueError(f"this sample is {type(sample).__name__}, not an object with fields")
    if "messages" in sample or "conversations" in sample:
        messages = _messages(sample)
        answered = any(message["role"] == "assistant" and message["content"].strip() for message in messages)
        return Document(*tokenizer.chat(messages)) if answered else Document([])
    if fields.prompt in sample and fields.answer in sample:
        prompt, answer = (_text(sample, name) for name in fields)
        if not answer.strip():
            return Document([])
        if chat:
            return Document(
                *tokenizer.chat([{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}])
            )
        asked, said = tokenizer.encode(prompt), [*tokenizer.encode(answer), tokenizer.end]
        return Document([*asked, *said], [False] * len(asked) + [True] * len(said))
    if "text" in sample:
        text = _text(sample, "text")
        return Document([*tokenizer.encode(text), tokenizer.end] if text.strip() else [])
    raise ValueError(
        f"this sample has the fields {', '.join(sorted(map(str, sample))) or 'none'}: it needs `text`, "
        f"`{fields.prompt}` and `{fields.answer}`, `messages` or `conversations` (other names: `data.prompt`, "
        "`data.answer`)"
    )


def _messages(sample: dict[str, Any]) -> list[Message]:
    shared = "messages" not in sample
    turns = sample["conversations" if shared else "messages"]
    who, what = ("from", "value") if shared else ("role", "content")
    if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
        raise ValueError(f"`{'conversations' if shared else 'messages'}` is no list of objects")
    found: list[Message] = []
    for number, turn in enumerate(turns, start=1):
        if who not in turn or what not in turn:
            raise ValueError(f"turn {number} needs `{who}` and `{what}`, it has {', '.join(sorted(turn)) or 'nothing'}")
        role = turn[who]
        if shared and role not in SHAREGPT:
            raise ValueError(f"turn {number} is from `{role}`: known are {', '.join(SHAREGPT)}")
        found.append({"role": SHAREGPT[role] if shared else role, "content": _text(turn, what)})
    return found


def _text(sample: dict[str, Any], field: str) -> str:
    value = sample[field]
    if not isinstance(value, str):
        raise ValueError(f"`{field}` is {type(value).__name__}, not text")
    return value
