"""What all text has in common: a tokenizer, splits by document, rows of tokens."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar, Literal

import torch

from kdcore.data.arrays import Columns
from kdcore.data.base import Data, Split
from kdcore.errors import RunError
from kdcore.signals import IGNORE
from kdcore_specdec.data.packing import Document, filled, fit, single, stream
from kdcore_specdec.sources import on_disk, on_hub
from kdcore_specdec.tokenizers import Tokenizer, load

FIRST_ID: Mapping[str, int] = {"train": 0, "val": 1 << 40, "test": 1 << 41}
"""Where the ids of a split's rows begin, so that no two rows share one."""

Careful = Literal["error", "skip"]
"""What to do with a document that cannot be used."""


@dataclass(frozen=True)
class Record:
    """A document as a file gives it.

    Attributes:
        where: file and line, for messages.
        text: what it says; decides, by its hash, which split it belongs to.
        document: its tokens, the end token included.
        split: its split, where its file belongs to one.
    """

    where: str
    text: str
    document: Document
    split: Split | None = None


class Corpus(Data):
    """Rows of tokens of documents. A subclass gives the documents; see :meth:`records`.

    A batch holds ``input_ids``, ``labels`` (the token after each, -100 where there is none to learn) and ``segment``
    (the document of each token in its row, from 1; 0 is padding), int64 (N, T) each.

    Args:
        batch_size: rows in a batch, over all devices together.
        length: tokens in a row.
        tokenizer: the folder, or ``.gguf`` file, of a model whose tokenizer is used.
        hub: the same, ``owner/name@revision`` on the hub. Without either, tokens are bytes.
        packed: several documents share a row, without seeing each other; else each has a row of its own.
        whole: a document is never cut in two.
        validation: share of the documents held out for validation, where no file is meant for it.
        test: share held out for the test; 0 for no test split.
        count_tokens: give the fact ``token_counts``.

    Raises:
        RunError: the tokenizer cannot be read.
        ValueError: two tokenizers, rows without room, or shares that leave nothing to train on.
    """

    fact_names: ClassVar[tuple[str, ...]] = (
        "vocabulary", "length", "tokenizer_digest", "packed", "end_token", "pad_token", "token_counts",
    )  # fmt: skip

    def __init__(
        self,
        *,
        batch_size: int,
        length: int,
        tokenizer: Path | None,
        hub: str | None,
        packed: bool,
        whole: bool,
        validation: float,
        test: float,
        count_tokens: bool,
    ) -> None:
        super().__init__(batch_size=batch_size)
        if tokenizer is not None and hub is not None:
            raise ValueError("`tokenizer` and `hub` both name a tokenizer: leave one of them out")
        if length < 2:
            raise ValueError(f"length={length}: a row needs two tokens, one to read and one to predict")
        if not (validation >= 0 and test >= 0 and validation + test < 1):
            raise ValueError(f"validation={validation} and test={test}: give shares of the documents that leave some")
        source = on_hub(hub) if hub is not None else None if tokenizer is None else on_disk(tokenizer)
        self.tokenizer: Tokenizer = load(source)
        self.length, self.packed, self._whole = length, packed, whole
        self._shares: Mapping[Split, float] = {"test": test, "val": validation}
        self.facts = {
            "vocabulary": self.tokenizer.vocabulary,
            "length": length,
            "tokenizer_digest": self.tokenizer.digest,
            "packed": packed,
            "end_token": self.tokenizer.end,
            "pad_token": self.tokenizer.pad,
        }
        self._count_tokens = count_tokens
        self._left_out: Counter[str] = Counter()

    def setup(self, stage: str | None = None) -> None:
        """Counts tokens, where they are wanted, when all of a subclass is there."""
        if self._count_tokens and "token_counts" not in self.facts:
            labels = self._splits["train"].columns["labels"]
            counts = torch.bincount(labels[labels != IGNORE], minlength=self.tokenizer.vocabulary)
            self.facts["token_counts"] = counts.tolist()

    def records(self) -> Iterable[Record]:
        """Every document, always in the same order."""
        raise NotImplementedError(f"{type(self).__name__} does not implement records()")

    def leave_out(self, why: str) -> None:
        """Count a document that is not used as it is; the report says how many there were."""
        self._left_out[why] += 1

    def split(self, name: Split) -> Columns | None:
        return self._splits.get(name)

    @cached_property
    def _splits(self) -> dict[Split, Columns]:
        documents: dict[Split, list[Document]] = {"train": [], "val": [], "test": []}
        for record in self.records():
            documents[record.split or _drawn(record.text, self._shares)].append(record.document)
        self.notes += [f"{number} {why}" for why, number in self._left_out.items()]
        found = {name: columns for name, ours in documents.items() if (columns := self._rows(name, ours)) is not None}
        for name in ("train", "val"):
            if name not in found:
                number = sum(map(len, documents.values()))
                raise RunError(
                    f"no document is left for the {name} split, of {number} altogether: give more or smaller "
                    "documents, another share (`validation`, `test`), or a file of its own"
                )
        return found

    def _rows(self, name: Split, documents: list[Document]) -> Columns | None:
        arrange = single if not self.packed else fit if self._whole else stream
        rows = filled(arrange(documents, self.length), self.length, pad=self.tokenizer.pad)
        if len(rows.input_ids) == 0:
            return None
        ids = FIRST_ID[name] + torch.arange(len(rows.input_ids))
        return Columns({**rows._asdict(), "id": ids})


def _drawn(text: str, shares: Mapping[Split, float]) -> Split:
    """The split of a document, by its content alone: equal documents are together, and new ones move no other."""
    at = int.from_bytes(hashlib.sha256(text.encode("utf-8", errors="replace")).digest()[:8], "big") / 2**64
    for name, share in shares.items():
        if at < share:
            return name
        at -= share
    return "train"
