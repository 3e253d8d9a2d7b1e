"""Documents to rows of equal length: which token is followed by which, and which belong together."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from kdcore.signals import IGNORE

OPEN = 64
"""Rows that are still offered to the next document; those before them stay as full as they are."""


class Document(NamedTuple):
    """Tokens, and which of them are to be learnt.

    Attributes:
        ids: the tokens.
        said: of each token whether a draft is to learn to say it; ``None`` for all of them.
    """

    ids: Sequence[int]
    said: Sequence[bool] | None = None

    def part(self, start: int, end: int) -> Document:
        return Document(self.ids[start:end], None if self.said is None else self.said[start:end])

    @property
    def teaches(self) -> bool:
        """Whether any of its tokens is a label: the first one never is."""
        return len(self.ids) > 1 and (self.said is None or any(self.said[1:]))


class Rows(NamedTuple):
    """Rows of tokens, int64 (N, T) each.

    Attributes:
        input_ids: the tokens, padded at the end.
        labels: the token after each, -100 where there is none to learn: at the end of a document, of padding, and where
            another speaks.
        segment: the number of its document in the row, from 1; 0 for padding.
    """

    input_ids: Tensor
    labels: Tensor
    segment: Tensor


def stream(documents: Iterable[Document], length: int) -> list[list[Document]]:
    """Rows without gaps: a document that does not fit goes on, as one of its own, in the next row."""
    rows: list[list[Document]] = [[]]
    room = length
    for document in documents:
        start = 0
        while start < len(document.ids):
            if room == 0:
                rows.append([])
                room = length
            piece = document.part(start, start + room)
            rows[-1].append(piece)
            start, room = start + len(piece.ids), room - len(piece.ids)
    return rows


def fit(documents: Iterable[Document], length: int) -> list[list[Document]]:
    """Rows of whole documents, each in the first of the latest rows that has room for it."""
    rows: list[list[Document]] = []
    rooms: list[int] = []
    for document in documents:
        size = len(document.ids)
        first = max(0, len(rows) - OPEN)
        at = next((row for row in range(first, len(rows)) if rooms[row] >= size), None)
        if at is None:
            rows.append([])
            rooms.append(length)
            at = -1
        rows[at].append(document)
        rooms[at] -= size
    return rows


def single(documents: Iterable[Document], length: int) -> list[list[Document]]:
    """A row for each document; one that is longer goes on in the next row."""
    return [[piece] for document in documents for piece in _pieces(document, length)]


def filled(rows: Sequence[Sequence[Document]], length: int, *, pad: int) -> Rows:
    """Tensors of rows; those that teach nothing are left out."""
    kept = [row for row in rows if any(document.teaches for document in row)]
    shape = len(kept), length
    found = Rows(torch.full(shape, pad), torch.full(shape, IGNORE), torch.zeros(shape, dtype=torch.int64))
    for number, row in enumerate(kept):
        at = 0
        for segment, document in enumerate(row, start=1):
            ids = torch.tensor(document.ids, dtype=torch.int64)
            end = at + len(ids)
            found.input_ids[number, at:end] = ids
            found.segment[number, at:end] = segment
            found.labels[number, at : end - 1] = _labels(ids, document.said)
            at = end
    return found


def _labels(ids: Tensor, said: Sequence[bool] | None) -> Tensor:
    following = ids[1:]
    return following if said is None else torch.where(torch.tensor(said[1:], dtype=torch.bool), following, IGNORE)


def _pieces(document: Document, length: int) -> Iterator[Document]:
    return (document.part(start, start + length) for start in range(0, len(document.ids), length))
