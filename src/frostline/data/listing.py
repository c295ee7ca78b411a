"""Which files below a folder are pictures, by their names, and which are left out: hidden ones, and other kinds."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from math import inf
from pathlib import Path

from frostline.data import leftovers
from frostline.data.image_formats import SUFFIXES


@dataclass(frozen=True)
class Listing:
    """What lies below a folder."""

    files: list[Path] = field(default_factory=list)
    """Everything that is called like a picture, sorted, and folders that cannot be listed."""
    hidden: int = 0
    """Files and folders left out since their names begin with a dot, macOS `._*` among them."""
    other: Counter[str] = field(default_factory=Counter)
    """Files left out since they are not called like a picture, by `leftovers.kind`."""


@dataclass
class LeftOut:
    """What of a folder is left out, counted as it is come upon (see `Listing`)."""

    hidden: int = 0
    other: Counter[str] = field(default_factory=Counter)
    seen: int = 0
    """How many files and folders were come upon."""
    most: float = inf
    """How many of them may be before no further folder is looked into."""

    @property
    def cut(self) -> bool:
        """Whether there may be more below than was looked at."""
        return self.seen > self.most


def survey(folder: Path) -> Listing:
    """Return what lies below `folder`, links to folders followed once, and never back to a folder that it lies in."""
    left = LeftOut()
    files = list(walk(folder, left))
    return Listing(files, left.hidden, left.other)


def walk(folder: Path, left: LeftOut) -> Iterator[Path]:
    """Yield the files of `survey` in its order, with no more in memory than the names in one folder at each depth."""
    yield from _below(folder, left, {_identity(above) for above in folder.resolve().parents})


def _below(folder: Path, left: LeftOut, seen: set[tuple[int, int]]) -> Iterator[Path]:
    if left.cut:
        return
    try:
        identity = _identity(folder)
        if identity in seen:
            return
        seen.add(identity)
        with os.scandir(folder) as entries:
            folders = {entry.name: is_folder(entry) for entry in entries}
            left.seen += len(folders)
    except OSError:
        yield folder
        return
    for name in sorted(folders):
        if is_hidden(name):
            left.hidden += 1
            continue
        if name.lower().endswith(SUFFIXES):
            yield folder / name
        elif not folders[name]:
            left.other[leftovers.kind(name)] += 1
        if folders[name]:
            yield from _below(folder / name, left, seen)


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Return whether an entry is a folder, or a link that leads to one."""
    try:
        return entry.is_dir()
    except OSError:  # a link that leads to itself, say
        return False


def is_hidden(name: str) -> bool:
    """Return whether a file or folder of that name is no picture: a dot file, or what macOS puts into archives."""
    return name.startswith(".") or name == "__MACOSX"


def _identity(folder: Path) -> tuple[int, int]:
    """Return what tells a folder from others, by whatever links it was reached."""
    status = folder.stat()
    return status.st_dev, status.st_ino
