"""Random draws are uniform, depend only on their derived seed, and are equal on all machines."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from frostline.core.randomness import derive_seed, generator, uniform

MASK = 2**64 - 1
seeds = st.integers(0, 2**63 - 1)


def splitmix(state: int) -> int:
    """Return the finaliser of SplitMix64, as its paper defines it."""
    state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & MASK
    return state ^ (state >> 31)


def expected(seed: int, sample: int, draw: int) -> float:
    golden = 0x9E3779B97F4A7C15
    start = splitmix(splitmix((sample * golden + seed) & MASK))
    return (splitmix((start + (draw + 1) * golden) & MASK) >> 40) / 2**24


@given(seed=seeds, ids=st.lists(st.integers(0, 2**63 - 1), min_size=1, max_size=8), draws=st.integers(1, 5))
def test_draws_are_splitmix64_of_seed_and_id(seed: int, ids: list[int], draws: int) -> None:
    values = uniform(seed, torch.tensor(ids), draws)
    assert values.dtype == torch.float32
    assert values.tolist() == [[expected(seed, sample, draw) for draw in range(draws)] for sample in ids]


def test_recorded_draws_never_change() -> None:
    assert derive_seed(0, "order", 1) == 4739946833832999988
    assert uniform(0, torch.tensor([0, 1]), 2).tolist() == [
        [0.8833107948303223, 0.4315279722213745],
        [0.3380524516105652, 0.26913022994995117],
    ]


@given(seed=seeds, permutation=st.permutations(range(20)), cut=st.integers(1, 19))
def test_draws_are_independent_of_order_and_batch(seed: int, permutation: list[int], cut: int) -> None:
    ids = torch.arange(20)
    whole = uniform(seed, ids, 3)
    order = torch.tensor(permutation)
    assert torch.equal(uniform(seed, ids[order], 3), whole[order])
    assert torch.equal(torch.cat([uniform(seed, ids[:cut], 3), uniform(seed, ids[cut:], 3)]), whole)


@pytest.mark.slow
@given(seed=seeds)
def test_more_draws_keep_the_first_ones(seed: int) -> None:
    ids = torch.arange(10)
    assert torch.equal(uniform(seed, ids, 7)[:, :3], uniform(seed, ids, 3))


@settings(max_examples=30)
@given(seed=seeds)
def test_draws_are_uniform(seed: int) -> None:
    values = uniform(seed, torch.arange(4096), 4)
    assert values.min() >= 0
    assert values.max() < 1
    counts = torch.stack([torch.histc(column, 16, 0, 1) for column in values.T])
    chi_squared = ((counts - 256) ** 2 / 256).sum(1)
    assert chi_squared.max() < 70  # 15 degrees of freedom: exceeded once in 200 million columns


def correlation(a: Tensor, b: Tensor) -> float:
    return float(torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1])


@settings(max_examples=30)
@given(seed=st.integers(0, 2**63 - 2))
def test_neighbouring_draws_are_uncorrelated(seed: int) -> None:
    values = uniform(seed, torch.arange(4097), 2)
    assert abs(correlation(values[:-1], values[1:])) < 0.08  # neighbouring ids; 7 standard errors of 8,192 pairs
    assert abs(correlation(values[:, 0], values[:, 1])) < 0.11  # neighbouring draws; 7 of 4,097
    assert abs(correlation(values, uniform(seed + 1, torch.arange(4097), 2))) < 0.08  # neighbouring seeds


def test_derived_seeds_differ_by_their_parts() -> None:
    parts = [(0, "order", 1), (0, "order", 11), (0, "order1", 1), (0, "orde", "r1"), (0, 1, "order"), (1, "order", 0)]
    seeds = {derive_seed(*part) for part in parts}
    assert len(seeds) == len(parts)
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_generators_with_the_same_seed_agree() -> None:
    draws = [torch.rand(4, generator=generator(3, purpose)) for purpose in ("order", "order", "init")]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="compares a GPU with the CPU")
def test_gpu_draws_the_same_bits() -> None:
    ids = torch.arange(1000)
    assert torch.equal(uniform(7, ids.cuda(), 5).cpu(), uniform(7, ids, 5))
