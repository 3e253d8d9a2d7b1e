"""Seeds: pure, stable for ever, well mixed."""

from __future__ import annotations

import pytest
import torch
from scipy.stats import chisquare

from kdcore.data.seeds import derive_seed, sample_seeds

MASK = (1 << 64) - 1


def splitmix(value: int) -> int:
    """The published algorithm in unsigned Python integers, written a second time."""
    value = (value + 0x9E3779B97F4A7C15) & MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & MASK
    return value ^ (value >> 31)


def test_the_mixer_is_splitmix64() -> None:
    # the first output of splitmix64 started at 0, as published with the xoshiro generators
    assert splitmix(0) == 0xE220A8397B1DCDAF


@pytest.mark.parametrize("seed", [0, 1, 2**31 - 1, -5])
@pytest.mark.parametrize("variant", [0, 1, 10**9])
def test_tensor_arithmetic_equals_unsigned_integers(seed: int, variant: int) -> None:
    ids = torch.tensor([0, 1, 2, 1796, 2**31, 2**62, -1])
    key = splitmix((splitmix(seed & MASK) + variant) & MASK)
    expected = [splitmix(splitmix(int(i) & MASK) ^ key) & (2**63 - 1) for i in ids]
    assert sample_seeds(seed, ids, variant).tolist() == expected


def test_a_seed_does_not_depend_on_the_samples_beside_it() -> None:
    ids = torch.arange(1000)
    seeds = sample_seeds(3, ids)
    order = torch.randperm(1000, generator=torch.Generator().manual_seed(0))
    assert torch.equal(sample_seeds(3, ids[order]), seeds[order])
    assert sample_seeds(3, torch.tensor([17])).item() == seeds[17].item()


def test_seed_id_and_variant_each_change_everything() -> None:
    ids = torch.arange(5000)
    columns = [sample_seeds(seed, ids, variant) for seed in range(4) for variant in range(4)]
    everything = torch.cat(columns)
    assert len(torch.unique(everything)) == len(everything)
    assert everything.min() >= 0
    assert everything.dtype == torch.int64


@pytest.mark.parametrize("bit", [0, 20, 40, 62])
def test_neighbouring_ids_differ_in_half_of_the_bits(bit: int) -> None:
    seeds = sample_seeds(0, torch.arange(20001))
    flips = ((seeds[1:] ^ seeds[:-1]) >> bit) & 1
    assert abs(flips.double().mean().item() - 0.5) < 0.02


def test_seeds_are_uniform() -> None:
    bins = torch.bincount(sample_seeds(1, torch.arange(64000)) % 64, minlength=64)
    assert chisquare(bins.numpy()).pvalue > 1e-3


def test_a_sample_seed_is_taken_by_torch() -> None:
    for seed in sample_seeds(0, torch.arange(50)).tolist():
        torch.Generator().manual_seed(seed)


def test_derived_seeds_are_pinned() -> None:
    """Changing these changes every run ever made."""
    assert derive_seed(0, "order", 0) == 345353483
    assert derive_seed() == 1918062635


def test_every_part_its_type_and_its_place_count() -> None:
    parts: list[tuple[int | str, ...]] = [
        (0,), ("0",), (0, 0), (1, 2), (2, 1), (12,), ("a", "b"), ("ab",), ("a", "b", ""), ("", "a", "b"), (-1,),
        ("i1:0",),
    ]  # fmt: skip
    seeds = [derive_seed(*part) for part in parts]
    assert len(set(seeds)) == len(parts)


def test_derived_seeds_fit_31_bits_and_use_them() -> None:
    seeds = torch.tensor([derive_seed(0, number) for number in range(2000)])
    assert seeds.min() >= 0
    assert seeds.max() < 2**31
    assert ((seeds >> 30) & 1).double().mean().sub(0.5).abs() < 0.05
