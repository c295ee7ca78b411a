"""Find duplicate images: identical files before decoding, identical pixels afterwards.

A copy of a training image in val or test rewards memorisation and inflates accuracy.
"""

from __future__ import annotations

import hashlib
import stat
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from frostline.core.errors import first_few
from frostline.core.labels import label_text
from frostline.data.findings import PAIRS, Finding, Place
from frostline.store import hashing

TAIL = 4096
"""Bytes at the end of a file that are compared: they differ even if headers are equal."""
T = TypeVar("T")


def of_files(files: Sequence[Path]) -> Tensor:
    """Return `(N,)` int64: for each file the index of the first one with the same bytes.

    Only files of equal size are opened, and only those with equal ends are read whole. A file that cannot be read
    equals no other.
    """
    return first_alike(files, _size, _tail, hashing.of_file)


def first_alike(images: Sequence[T], *facts: Callable[[T], Hashable]) -> Tensor:
    """Return `(N,)` int64: for each image the index of the first one with which it has all facts in common.

    An element of `images` is what the `facts` take, such as a file. A fact is computed only for images that agree in
    all facts before it. An image for which it raises OSError equals no other.
    """
    first = torch.arange(len(images))
    groups: Iterable[list[int]] = [list(range(len(images)))]
    for fact in facts:
        groups = [group for before in groups for group in _alike(images, before, fact)]
    for group in groups:
        first[group] = group[0]
    return first


def of_rows(array: NDArray[Any]) -> Tensor:
    """Return `(N,)` int64: for each row of an array the index of the first equal one."""
    rows = np.ascontiguousarray(array).reshape(len(array), -1)
    seen: dict[bytes, int] = {}
    return torch.tensor(
        [seen.setdefault(hashlib.sha256(row.data).digest(), index) for index, row in enumerate(rows)], dtype=torch.int64
    )


def shared(digests: Tensor, others: Tensor) -> Tensor:
    """Return `(N,)` int64: for each of `(N, 32)` uint8 digests the last equal row of `others`, or -1."""
    place = {row.tobytes(): index for index, row in enumerate(others.numpy())}
    return torch.tensor([place.get(row.tobytes(), -1) for row in digests.numpy()], dtype=torch.int64)


@dataclass(frozen=True)
class SplitHashes:
    """Digests, perceptual hashes and labels of a split's images, for comparison."""

    split: str
    ids: Tensor
    """`(N,)` int64."""
    digests: Tensor
    """`(N, 32)` uint8."""
    hashes: Tensor
    """`(N, 2)` int64, see `perceptual_hash.of`."""
    labels: Tensor
    """`(N,)` int64, or multi-label `(N, classes)` bool."""
    name: Callable[[int], str]
    """Returns the name of the image in the i-th row."""

    def place(self, row: int) -> Place:
        """Return split and id of the image in a row."""
        return Place(self.split, int(self.ids[row]))


def find(splits: Mapping[str, SplitHashes], classes: Sequence[str]) -> list[Finding]:
    """Return findings about identical images in the splits `train`, `val` and `test`."""
    return [
        *_across(splits, "test", "train"),
        *_across(splits, "val", "train"),
        *_across(splits, "test", "val"),
        *_contradictions(splits, classes),
        *_copies(splits["train"]),
    ]


def in_pairs(
    one: SplitHashes, two: SplitHashes, rows: Sequence[tuple[int, int]], sign: str
) -> tuple[tuple[str, ...], tuple[tuple[Place, ...], ...]]:
    """Return the names of images in pairs of rows, with `sign` between them, and the places of the first `PAIRS`."""
    names = tuple(f"{one.name(row)} {sign} {two.name(other)}" for row, other in rows)
    return names, tuple((one.place(row), two.place(other)) for row, other in rows[:PAIRS])


def _across(splits: Mapping[str, SplitHashes], one: str, two: str) -> Iterator[Finding]:
    places = shared(splits[one].digests, splits[two].digests).tolist()
    rows = [(row, place) for row, place in enumerate(places) if place >= 0]
    if not rows:
        return
    names, shown = in_pairs(splits[one], splits[two], rows, "=")
    told = f"{len(rows):,} of {len(places):,} images in {one} {'is' if len(rows) == 1 else 'are'} in {two}, too"
    yield Finding(f"{told} ({first_few(names)}): accuracy there may be too high", True, names, shown)


def _contradictions(splits: Mapping[str, SplitHashes], classes: Sequence[str]) -> Iterator[Finding]:
    """Yield a finding about identical images with different labels."""
    where: defaultdict[bytes, list[tuple[str, int]]] = defaultdict(list)
    for split, found in splits.items():
        for row, digest in enumerate(found.digests.numpy()):
            where[digest.tobytes()].append((split, row))
    groups = [
        group
        for group in where.values()
        if len(group) > 1 and len({tuple(splits[split].labels[row].view(-1).tolist()) for split, row in group}) > 1
    ]
    if not groups:
        return

    def shown(group: Iterable[tuple[str, int]]) -> str:
        return " = ".join(f"{splits[s].name(row)} ({label_text(splits[s].labels[row], classes)})" for s, row in group)

    count = len(groups)
    each = "image has copies with different labels" if count == 1 else "images have copies with different labels"
    two = [_two_labels(group, splits) for group in groups]
    places = tuple(tuple(splits[s].place(row) for s, row in group) for group in two[:PAIRS])
    yield Finding(f"{count:,} {each} ({first_few([*map(shown, two)])})", True, tuple(map(shown, groups)), places)


def _two_labels(group: Sequence[tuple[str, int]], splits: Mapping[str, SplitHashes]) -> list[tuple[str, int]]:
    """Return the first image of a group of copies, and the first one with other labels."""
    first, *others = group
    label = splits[first[0]].labels[first[1]]
    return [first, next((s, row) for s, row in others if not splits[s].labels[row].equal(label))]


def _copies(train: SplitHashes) -> Iterator[Finding]:
    first: dict[bytes, int] = {}
    rows = [(row, first.setdefault(digest.tobytes(), row)) for row, digest in enumerate(train.digests.numpy())]
    if copies := [(row, other) for row, other in rows if row != other]:
        names, shown = in_pairs(train, train, copies, "=")
        verb = "is a copy of another" if len(names) == 1 else "are copies of others"
        told = f"{len(names):,} of {len(rows):,} images in train {verb} ({first_few(names)})"
        yield Finding(told, False, names, shown)


def _alike(images: Sequence[T], group: Sequence[int], fact: Callable[[T], Hashable]) -> Iterator[list[int]]:
    """Yield the subsets of at least two indices of a group whose images have a fact in common."""
    found: defaultdict[Hashable, list[int]] = defaultdict(list)
    for index in group:
        with suppress(OSError):
            found[fact(images[index])].append(index)
    yield from (alike for alike in found.values() if len(alike) > 1)


def _size(file: Path) -> int:
    status = file.stat()
    if not stat.S_ISREG(status.st_mode):
        raise OSError("not a regular file")  # opening a pipe would wait for ever
    return status.st_size


def _tail(file: Path) -> bytes:
    with file.open("rb") as opened:
        opened.seek(max(0, file.stat().st_size - TAIL))
        return hashlib.sha256(opened.read(TAIL)).digest()
