"""Multi-codebook vector quantisation: a vector as a few bytes, each the number of a vector, which are added up."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

ENTRIES = 256
"""Vectors in a codebook: as many as a byte can name."""

STEPS = 10
"""Of k-means, with which a codebook begins."""

BEAM = 8
"""Beginnings of a code that are kept while it is looked for."""

AT_ONCE = 1024
"""Vectors that are coded together, which bounds the memory."""


class Quantiser(NamedTuple):
    """Codebooks that add up: a vector is near ``mean + sum_b codebooks[b, codes[b]]``.

    Attributes:
        mean: float32 (D,).
        codebooks: float32 (B, 256, D).
    """

    mean: Tensor
    codebooks: Tensor

    def encode(self, x: Tensor) -> Tensor:
        """The codes of vectors: (M, D) -> uint8 (M, B).

        Codebook by codebook, the 8 best beginnings of a code are kept: the entries that suit best one by one are not
        those that suit best together.
        """
        entries = self.codebooks.flatten(0, 1)
        size = len(self.codebooks), ENTRIES
        gram = (entries @ entries.T).view(*size, *size)
        parts = torch.split(x.float() - self.mean, AT_ONCE)
        return torch.cat([_search((part @ entries.T).view(-1, *size), gram) for part in parts])

    def decode(self, codes: Tensor) -> Tensor:
        """What codes stand for: uint8 (M, B) -> float32 (M, D)."""
        books = range(len(self.codebooks))
        return self.mean + torch.stack([self.codebooks[b][codes[:, b].long()] for b in books]).sum(0)

    def loss(self, x: Tensor) -> float:
        """The share of the variance of vectors (M, D) that their codes lose, from 0."""
        spread = (x.float() - x.float().mean(0)).square().sum().clamp(min=1e-12)
        return float((x.float() - self.decode(self.encode(x))).square().sum() / spread)


def fit(x: Tensor, *, codebooks: int, seed: int) -> Quantiser:
    """Codebooks for vectors like these, by k-means, each on what those before it leave.

    Args:
        x: (M, D), at least 256 of them.
        codebooks: B, the bytes of a vector.
        seed: of the vectors that k-means begins with.

    Raises:
        ValueError: fewer vectors than a codebook has entries, or no codebook.
    """
    if codebooks < 1:
        raise ValueError(f"codebooks={codebooks}: give at least 1")
    if len(x) < ENTRIES:
        raise ValueError(f"{len(x)} vectors are too few for codebooks of {ENTRIES} entries")
    generator = torch.Generator().manual_seed(seed)
    mean = x.float().mean(0)
    left, books = x.float() - mean, []
    for _ in range(codebooks):
        book = left[torch.randperm(len(left), generator=generator)[:ENTRIES].to(left.device)]
        for _ in range(STEPS):
            book = means(left, nearest(left, book), book)
        left = left - book[nearest(left, book)]
        books.append(book)
    return Quantiser(mean, torch.stack(books))


def _search(products: Tensor, gram: Tensor) -> Tensor:
    """The codes uint8 (M, B) with the least error that a beam finds.

    Args:
        products: of vectors with entries, (M, B, K).
        gram: products of entries with each other, (B, K, B, K).
    """
    size = products.shape[-1]
    cost = products.new_zeros(len(products), 1)  # squared distance, without that of the vector from 0
    codes = torch.zeros(len(products), 1, 0, dtype=torch.int64, device=products.device)
    for b in range(products.shape[1]):
        added = gram[b, :, b].diagonal() - 2 * products[:, b]  # (M, K)
        total = cost.unsqueeze(2) + added.unsqueeze(1)  # (M, beam, K)
        for before in range(b):
            total = total + 2 * gram[before, :, b][codes[:, :, before]]
        cost, at = total.flatten(1).topk(min(BEAM, total[0].numel()), largest=False)
        parents = codes.gather(1, (at // size).unsqueeze(2).expand(-1, -1, b))
        codes = torch.cat([parents, (at % size).unsqueeze(2)], 2)
    return codes[:, 0].to(torch.uint8)


def nearest(x: Tensor, book: Tensor) -> Tensor:
    """The number of the nearest entry (K, D) to each vector (M, D): int64 (M,)."""
    lengths = book.square().sum(1)
    return torch.cat([(lengths - 2 * part @ book.T).argmin(1) for part in torch.split(x, AT_ONCE)])


def means(x: Tensor, codes: Tensor, book: Tensor) -> Tensor:
    """The mean of the vectors (M, D) that have each code (M,); an entry (K, D) that nobody chose stays."""
    sums = torch.zeros_like(book).index_add(0, codes, x)
    counts = torch.bincount(codes, minlength=len(book)).unsqueeze(1)
    return torch.where(counts > 0, sums / counts.clamp(min=1), book)
