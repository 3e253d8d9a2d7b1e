"""Multi-codebook vector quantisation: a vector as a few bytes, each the number of a vector, which are added up."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

ENTRIES = 256
"""Vectors in a codebook: as many as a byte can name."""

STARTS = 10
"""Steps of k-means that a codebook begins with."""

SWEEPS = 4
"""How often a vector's codes are chosen anew, each while the others stay."""

AT_ONCE = 8192
"""Vectors that are held against a codebook together, which bounds the memory."""


class Quantiser(NamedTuple):
    """Codebooks that add up: a vector is near ``sum_b codebooks[b, codes[b]]``.

    Attributes:
        codebooks: float32 (B, 256, D).
    """

    codebooks: Tensor

    def encode(self, x: Tensor) -> Tensor:
        """The codes of vectors: (M, D) -> uint8 (M, B).

        Each code is the nearest to what the codebooks before it have left; then each is chosen anew in turn, to suit
        the others, which never makes the error larger.
        """
        x = x.float()
        codes = x.new_zeros(len(x), len(self.codebooks), dtype=torch.int64)
        left = x.clone()
        for b, book in enumerate(self.codebooks):
            codes[:, b] = nearest(left, book)
            left -= book[codes[:, b]]
        for _ in range(SWEEPS):
            for b, book in enumerate(self.codebooks):
                left += book[codes[:, b]]
                codes[:, b] = nearest(left, book)
                left -= book[codes[:, b]]
        return codes.to(torch.uint8)

    def decode(self, codes: Tensor) -> Tensor:
        """What codes stand for: uint8 (M, B) -> float32 (M, D)."""
        books = range(len(self.codebooks))
        return torch.stack([self.codebooks[b][codes[:, b].long()] for b in books]).sum(0)

    def error(self, x: Tensor) -> float:
        """The share of the variance of vectors (M, D) that their codes lose, from 0."""
        x = x.float()
        lost = (x - self.decode(self.encode(x))).square().sum()
        return float(lost / (x - x.mean(0)).square().sum().clamp(min=1e-12))


def fit(x: Tensor, *, codebooks: int, rounds: int, seed: int) -> Quantiser:
    """Codebooks for vectors like these.

    The codebooks begin by k-means, each on what those before it leave; then, ``rounds`` times, each in turn takes a
    step of k-means on what all the others leave. No step makes the error on ``x`` larger.

    Args:
        x: (M, D), at least 256 of them.
        codebooks: B, the bytes of a vector.
        rounds: how often each codebook is improved.
        seed: of the vectors that k-means begins with.

    Raises:
        ValueError: fewer vectors than a codebook has entries; no codebook, or a negative number of rounds.
    """
    if codebooks < 1 or rounds < 0:
        raise ValueError(
            f"codebooks={codebooks} and rounds={rounds}: give at least one codebook, and no negative number"
        )
    if len(x) < ENTRIES:
        raise ValueError(f"{len(x)} vectors are too few for codebooks of {ENTRIES} entries")
    generator = torch.Generator().manual_seed(seed)
    left = x.float().clone()
    books, codes = [], []
    for _ in range(codebooks):
        book = left[torch.randperm(len(left), generator=generator)[:ENTRIES].to(left.device)]
        for _ in range(STARTS):
            book = means(left, nearest(left, book), book)
        books.append(book)
        codes.append(nearest(left, book))
        left -= book[codes[-1]]
    for _ in range(rounds):
        for b in range(codebooks):
            left += books[b][codes[b]]
            codes[b] = nearest(left, books[b])
            books[b] = means(left, codes[b], books[b])
            left -= books[b][codes[b]]
    return Quantiser(torch.stack(books))


def nearest(x: Tensor, book: Tensor) -> Tensor:
    """The number of the nearest entry (K, D) to each vector (M, D): int64 (M,)."""
    lengths = book.square().sum(1)
    return torch.cat([(lengths - 2 * part @ book.T).argmin(1) for part in torch.split(x, AT_ONCE)])


def means(x: Tensor, codes: Tensor, book: Tensor) -> Tensor:
    """The mean of the vectors (M, D) that have each code (M,); an entry (K, D) that nobody chose stays."""
    sums = torch.zeros_like(book).index_add(0, codes, x)
    counts = torch.bincount(codes, minlength=len(book)).unsqueeze(1)
    return torch.where(counts > 0, sums / counts.clamp(min=1), book)
