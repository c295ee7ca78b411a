"""Derived seeds: every draw comes from a seed that names its purpose, never from a shared stream.

The draws for one sample depend only on (run seed, purpose, epoch, sample). Batch size, order, workers and device change
nothing, and a resumed run needs no generator state.
"""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

_GOLDEN = -7046029254386353131  # 0x9E3779B97F4A7C15 as a signed 64-bit integer


def derive_seed(*parts: int | str) -> int:
    """Return a seed in 0..2**63-1 that is a hash of `parts`, e.g. `derive_seed(seed, "order", epoch)`."""
    digest = hashlib.blake2b("\x1f".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def generator(*parts: int | str) -> torch.Generator:
    """Return a CPU generator seeded with `derive_seed(*parts)`."""
    return torch.Generator().manual_seed(derive_seed(*parts))


def uniform(seed: int, ids: Tensor, draws: int) -> Tensor:
    """Return `(len(ids), draws)` float32 in [0, 1) on the device of `ids`; row i depends only on `seed` and `ids[i]`.

    The generator is SplitMix64 (Steele, Lea, Flood 2014, doi:10.1145/2714064.2660195) as a counter-based hash, in
    integer arithmetic that is the same on every device.
    """
    counter = torch.arange(1, draws + 1, device=ids.device)
    start = _mix(_mix(ids.long() * _GOLDEN + seed))
    bits = _mix(start[:, None] + counter * _GOLDEN)
    return (_shift(bits, 40).float()) * 2.0**-24


def _mix(z: Tensor) -> Tensor:
    z = (z ^ _shift(z, 30)) * -4658895280553007687  # 0xBF58476D1CE4E5B9
    z = (z ^ _shift(z, 27)) * -7723592293110705685  # 0x94D049BB133111EB
    return z ^ _shift(z, 31)


def _shift(z: Tensor, bits: int) -> Tensor:
    """Return `z` after a logical shift right: zeros come in, as for an unsigned integer."""
    return (z >> bits) & ((1 << (64 - bits)) - 1)
