"""Labelled pictures of one split as their source has them, every one still to be decoded.

What a source says of itself is what its decoded pixels are kept under: for files their names, sizes and times, since
to read them all would take as long as to decode them. A file that is changed without a trace in any of these (the
system sets the time of the last change itself) is not noticed.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image
from torch import Tensor

from frostline.core.files import facts
from frostline.data import duplicates
from frostline.data.findings import Finding
from frostline.data.names import printable
from frostline.data.open_image import open_image
from frostline.data.times import Times
from frostline.store import hashing


@dataclass(frozen=True)
class Source:
    """One split as its source has it."""

    labels: Tensor
    """`(N,)` int64, or multi-label `(N, classes)` bool."""
    classes: tuple[str, ...]
    read: Callable[[int], Image.Image]
    """Opens the i-th picture; raises anything where its file is missing or broken."""
    name: Callable[[int], str]
    """Says which picture the i-th is, for people: its file if it has one."""
    files: Sequence[Path] | None = None
    """Where each picture lies, absolute; None where pictures have no files of their own."""
    header: Callable[[int], Image.Image] | None = None
    """Opens the i-th picture without decoding it, where `read` may decode it."""
    identity: str | None = None
    """sha256 (hex) that stands for all pictures of the split, or None where decoding them takes no time."""
    left_out: Mapping[str, int] = field(default_factory=dict)
    """How many files are not pictures by their names: `hidden`, `other`."""
    suffixes: Mapping[str, int] = field(default_factory=dict)
    """The `other` files, by suffix."""
    groups: Tensor | None = None
    """`(N,)` int64: pictures with one number are to be on one side of every split; None where each is its own."""
    splits: Mapping[str, Tensor] | None = None
    """Which of the pictures are of each split, `(M,)` int64, where the source holds several; None for one."""
    times: Times | None = None
    """When pictures were taken, where the latest ones are to be tested on."""
    weights: Tensor | None = None
    """`(N,)` float32, above 0: what each picture counts in the loss; None for all alike."""
    twins: Callable[[], Tensor] | None = None
    """Returns `(N,)` int64, for each picture the first one of the same bytes; None where they are not compared."""
    damage: tuple[str, ...] = ()
    """What of it cannot be read, as far as that is known before any picture is opened, a line each."""
    findings: tuple[Finding, ...] = ()
    """What is to be told of where the pictures come from."""


def of_files(files: Sequence[Path], root: Path, labels: Tensor, classes: Sequence[str]) -> Source:
    """Return the pictures in `files`, which are named by their place in `root`."""
    return Source(
        labels=labels,
        classes=tuple(classes),
        read=lambda index: open_image(files[index]),
        name=lambda index: printable(str(files[index].relative_to(root))),
        files=files,
        identity=hashing.of_facts(manifest(files, root)),
        twins=lambda: duplicates.of_files(files),
    )


def manifest(files: Iterable[Path], root: Path) -> list[tuple[object, ...]]:
    """Return name, size and times of every file; those of a link are its file's."""
    found: list[tuple[object, ...]] = []
    above = f"{root}{os.sep}"
    for path in map(str, files):
        inside = path.startswith(above)  # what relpath says then, too, in a tenth of its time
        name = os.fsencode(path[len(above) :] if inside else os.path.relpath(path, root)).hex()
        found.append((name, *facts(path)))
    return found
