"""Find near duplicates: val and test images that are recompressed, resized, brightened or cropped training images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from frostline.core.errors import first_few
from frostline.data.duplicates import SplitHashes, in_pairs, shared
from frostline.data.findings import Finding
from frostline.data.perceptual_hash import NONE

PHASH, DHASH = 4, 8
"""Largest number of differing bits, of 64. For photographs and crops of them, at least 64 pixels wide, this finds 83%
to 99% saved as JPEG, 95% resized by a factor of 0.5 to 1.5, 87% brightened or darkened by a fifth, 76% cropped by 1% on
each side. Of 8 million pairs of different crops, 32 pixels wide, it reports 1."""
_EDGES = tuple(round(64 * part / (PHASH + 1)) for part in range(PHASH + 2))
"""Bounds of the bands of `phash`: one more band than bits may differ, so that near duplicates agree in at least one."""
_AT_ONCE = 1 << 21  # pairs compared at once: bounds the memory
_FAR = np.iinfo(np.int64).max


def find(splits: Mapping[str, SplitHashes]) -> Iterator[Finding]:
    """Yield findings about near duplicates of `train` in `test` and `val`, without exact duplicates."""
    train = splits["train"]
    for split in ("test", "val"):
        own = splits[split]
        new = shared(own.digests, train.digests) < 0
        places = closest(torch.where(new[:, None], own.hashes, NONE), train.hashes).tolist()
        if rows := [(row, place) for row, place in enumerate(places) if place >= 0]:
            names, shown = in_pairs(own, train, rows, "~")
            look = "looks" if len(rows) == 1 else "look"
            told = f"{len(rows):,} of {len(places):,} images in {split} {look} nearly like one in train"
            doubt = "if they show the same, accuracy there may be too high"
            yield Finding(f"{told} ({first_few(names)}): {doubt}", False, names, shown)


def closest(hashes: Tensor, others: Tensor) -> Tensor:
    """Return `(N,)` int64: for each of `(N, 2)` int64 hashes the nearest row of `others`, -1 if none is near enough."""
    mine, row = np.unique(hashes.numpy().view(np.uint64), axis=0, return_inverse=True)
    theirs, first = np.unique(others.numpy().view(np.uint64), axis=0, return_index=True)
    (my_phash, my_dhash), (their_phash, their_dhash) = (np.ascontiguousarray(bits.T) for bits in (mine, theirs))
    best = np.full(len(mine), _FAR)
    for one, two in _candidates(my_phash, their_phash):
        apart = np.bitwise_count(my_phash[one] ^ their_phash[two])
        near = (apart <= PHASH).nonzero()[0]
        one, two, apart = one[near], two[near], apart[near].astype(np.int64)
        more = np.bitwise_count(my_dhash[one] ^ their_dhash[two])
        near = ((more <= DHASH) & (their_phash[two] != NONE)).nonzero()[0]
        np.minimum.at(best, one[near], (apart + more)[near] * len(theirs) + two[near])
    places = np.full(len(mine), -1)
    found = best < _FAR
    places[found] = first[best[found] % len(theirs)]
    return torch.from_numpy(places[row.reshape(-1)])


def _candidates(hashes: NDArray[np.uint64], others: NDArray[np.uint64]) -> Iterator[tuple[NDArray[np.intp], ...]]:
    """Yield row indices in both, `(C,)` each, of all pairs that agree in a band, once per band, in large batches."""
    for low, high in pairwise(_EDGES):
        mine, theirs = ((bits >> np.uint64(low)) & np.uint64(2 ** (high - low) - 1) for bits in (hashes, others))
        order = theirs.argsort(kind="stable")
        start, end = (np.searchsorted(theirs[order], mine, side) for side in ("left", "right"))
        counts = end - start
        cuts = np.diff(counts.cumsum() // _AT_ONCE).nonzero()[0] + 1
        for part in np.split(np.arange(len(mine)), cuts):
            many = counts[part]
            within = np.arange(many.sum()) - (many.cumsum() - many).repeat(many)
            yield part.repeat(many), order[start[part].repeat(many) + within]
