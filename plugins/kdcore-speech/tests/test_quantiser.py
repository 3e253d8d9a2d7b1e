"""Vectors as a few bytes."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from torch import Tensor

from kdcore_speech.quantiser import ENTRIES, Quantiser, fit, means, nearest


def cloud(n: int = 600, width: int = 4, seed: int = 0) -> Tensor:
    return torch.randn(n, width, generator=torch.Generator().manual_seed(seed))


def lost(quantiser: Quantiser, x: Tensor) -> float:
    return float((x - quantiser.decode(quantiser.encode(x))).square().sum())


def few(books: int, used: int, width: int = 3) -> Quantiser:
    """Codebooks of which all but a few entries are far away."""
    entries = torch.full((books, ENTRIES, width), 100.0)
    entries[:, :used] = torch.randn(books, used, width, generator=torch.Generator().manual_seed(2))
    return Quantiser(torch.zeros(width), entries)


def test_codes_stand_for_the_sum_of_their_entries():
    books, mean = torch.randn(3, ENTRIES, 2), torch.tensor([5.0, -5.0])
    codes = torch.tensor([[0, 255, 7], [1, 1, 1]], dtype=torch.uint8)
    expected = torch.stack([books[0, 0] + books[1, 255] + books[2, 7], books[0, 1] + books[1, 1] + books[2, 1]])
    torch.testing.assert_close(Quantiser(mean, books).decode(codes), mean + expected)


def test_nearest_is_that_of_all_distances_also_in_parts(monkeypatch: pytest.MonkeyPatch):
    x, book = cloud(50), cloud(9, seed=1)
    slowly = [min(range(9), key=lambda k: float((row - book[k]).square().sum())) for row in x]
    assert nearest(x, book).tolist() == slowly
    monkeypatch.setattr("kdcore_speech.quantiser.AT_ONCE", 7)
    assert nearest(x, book).tolist() == slowly


def test_means_by_hand_and_an_entry_that_nobody_chose_stays():
    x = torch.tensor([[1.0], [3.0], [10.0]])
    book = torch.tensor([[0.0], [5.0], [7.0]])
    assert means(x, torch.tensor([0, 0, 2]), book).tolist() == [[2.0], [5.0], [10.0]]


def test_a_beam_that_is_wide_enough_finds_the_best_code_of_all():
    """8 beginnings are all there are."""
    quantiser, x = few(2, 8), 2 * cloud(40, 3)
    first, second = quantiser.codebooks
    for row, found in zip(x, quantiser.decode(quantiser.encode(x)), strict=True):
        best = min(float((row - first[i] - second[j]).square().sum()) for i, j in product(range(8), repeat=2))
        assert float((row - found).square().sum()) == pytest.approx(best, rel=1e-4)


def test_a_beam_loses_less_than_the_nearest_entries_one_by_one(monkeypatch: pytest.MonkeyPatch):
    x, others = cloud(1500, 6), cloud(300, 6, seed=1)
    quantiser = fit(x, codebooks=3, seed=0)
    left = others - quantiser.mean
    for book in quantiser.codebooks:
        left = left - book[nearest(left, book)]
    greedily = float(left.square().sum())
    assert lost(quantiser, others) < 0.95 * greedily
    monkeypatch.setattr("kdcore_speech.quantiser.BEAM", 1)
    assert lost(quantiser, others) == pytest.approx(greedily, rel=1e-3)


def test_the_parts_that_are_coded_together_do_not_matter(monkeypatch: pytest.MonkeyPatch):
    x = cloud(500, 6)
    quantiser = fit(x, codebooks=2, seed=0)
    whole = quantiser.encode(x)
    monkeypatch.setattr("kdcore_speech.quantiser.AT_ONCE", 64)
    assert (quantiser.encode(x) == whole).float().mean() > 0.99


def test_every_codebook_loses_less():
    x = cloud(1500, 6)
    one, two, three = (lost(fit(x, codebooks=books, seed=0), x) for books in (1, 2, 3))
    assert one > two > three


def test_the_share_that_is_lost():
    x = cloud(1500, 6) + 3
    quantiser = fit(x, codebooks=1, seed=0)
    expected = lost(quantiser, x) / float((x - x.mean(0)).square().sum())
    assert quantiser.loss(x) == pytest.approx(expected, rel=1e-5)
    assert fit(x, codebooks=4, seed=0).loss(x) < 0.02 < expected < 1


def test_a_mean_far_from_zero_costs_nothing():
    x = cloud(1500, 6)
    plain, moved = (fit(one, codebooks=3, seed=0).loss(one) for one in (x, x + 500))
    assert moved == pytest.approx(plain, rel=0.02)


def test_the_seed_decides():
    x = cloud()
    first, again, other = (fit(x, codebooks=2, seed=seed).codebooks for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_what_is_given_stays_as_it_is_and_half_precision_will_do():
    x = cloud(300).bfloat16()
    before = x.clone()
    quantiser = fit(x, codebooks=2, seed=0)
    codes = quantiser.encode(x)
    assert torch.equal(x, before)
    assert (codes.dtype, codes.shape, quantiser.codebooks.dtype) == (torch.uint8, (300, 2), torch.float32)


def test_impossible_numbers_are_refused():
    with pytest.raises(ValueError, match="255 vectors are too few for codebooks of 256 entries"):
        fit(cloud(255), codebooks=1, seed=0)
    with pytest.raises(ValueError, match="codebooks=0: give at least 1"):
        fit(cloud(), codebooks=0, seed=0)
