from __future__ import annotations

from typing import Any

import pytest
import torch

from kdcore_speech.data.buckets import BucketBatches

SECONDS = (1 + 14 * torch.rand(500, generator=torch.Generator().manual_seed(0)).square()).tolist()


def made(
    seconds: list[float] = SECONDS, batch_size: int = 64, limit: float | None = 60.0, **options: Any
) -> BucketBatches:
    return BucketBatches(len(seconds), batch_size, seconds=seconds, batch_seconds=limit, **options)


def epoch(batches: BucketBatches, number: int = 0) -> list[list[int]]:
    batches.set_epoch(number)
    return list(batches)


def padded(seconds: list[float], batch: list[int]) -> float:
    return len(batch) * max(seconds[row] for row in batch)


def test_every_sample_once_in_each_epoch():
    batches = made()
    for number in range(3):
        rows = [row for batch in epoch(batches, number) for row in batch]
        assert sorted(rows) == list(range(500))


def test_no_batch_exceeds_its_limits_in_any_epoch():
    for limit, size in ((60.0, 64), (None, 16), (300.0, 8)):
        batches = made(limit=limit, batch_size=size)
        for number in range(3):
            for batch in epoch(batches, number):
                assert len(batch) <= size
                assert limit is None or padded(SECONDS, batch) <= limit


def test_batches_are_as_full_as_their_bucket_allows():
    sizes = [padded(SECONDS, batch) for batch in epoch(made())]
    assert sum(size > 60 / 1.1 - 15 for size in sizes) > 0.8 * len(sizes)


def test_less_than_a_tenth_is_padding():
    real, total = sum(SECONDS), sum(padded(SECONDS, batch) for batch in epoch(made()))
    assert 1 - real / total < 0.1
    shuffled = torch.randperm(500, generator=torch.Generator().manual_seed(0)).split(20)
    assert 1 - real / sum(padded(SECONDS, batch.tolist()) for batch in shuffled) > 0.3


def test_as_many_batches_of_the_same_sizes_in_every_epoch():
    batches = made()
    sizes = [sorted(map(len, epoch(batches, number))) for number in range(4)]
    assert all(one == sizes[0] for one in sizes)
    assert len(batches) == len(sizes[0])


def test_epochs_differ_and_replay():
    first, second = epoch(made(), 0), epoch(made(), 1)
    assert first != second
    assert epoch(made(), 1) == second
    assert epoch(made(seed=1), 0) != first
    # not only the order of the batches: who is in them, too
    assert {frozenset(batch) for batch in first} != {frozenset(batch) for batch in second}


def test_it_goes_on_where_it_was():
    batches = made()
    whole = epoch(batches, 2)
    batches.seek(2, 5)
    assert list(batches) == whole[5:]
    assert epoch(batches, 3) == epoch(made(), 3)


def test_ranks_share_each_batch():
    one = epoch(made(), 1)
    ranks = [epoch(made(rank=rank, world=3), 1) for rank in range(3)]
    assert len(ranks[0]) == len(ranks[1]) == len(ranks[2])
    together = [sorted(a + b + c) for a, b, c in zip(*ranks, strict=True)]
    assert sorted(row for batch in together for row in batch) == list(range(500))
    assert all(a and b and c for a, b, c in zip(*ranks, strict=True))
    assert len(together) <= len(one)


def test_a_draw_is_added_to_the_rows():
    assert sorted(row for batch in epoch(made(variants=0), 2) for row in batch) == list(range(1000, 1500))
    assert sorted(row for batch in epoch(made(variants=2), 3) for row in batch) == list(range(500, 1000))


def test_a_sample_longer_than_the_limit_is_a_batch_of_its_own():
    found = epoch(made([1.0, 1.0, 9.0], limit=4.0))
    assert sorted(map(sorted, found)) == [[0, 1], [2]]


def test_equal_samples_fill_batches_as_without_buckets():
    assert sorted(map(len, epoch(made([2.0] * 10, batch_size=4, limit=None)))) == [2, 4, 4]


def test_a_short_rest_joins_the_batch_before_it():
    assert sorted(map(len, epoch(made([2.0] * 9, batch_size=4, limit=None, world=2)))) == [2, 3]


def test_more_ranks_than_samples_are_refused():
    with pytest.raises(ValueError, match="2 samples cannot be divided over 3 processes"):
        made([1.0, 2.0], world=3)
