"""List the image files below a folder, by their names, and count files left out: hidden ones, and other kinds."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from math import inf
from pathlib import Path

from frostline.data import leftovers
from frostline.data.image_formats import SUFFIXES


@dataclass
class LeftOut:
    """Counts of files left out so far, while a folder is walked."""

    hidden: int = 0
    """Number of files and folders left out as hidden: dot files, macOS's `._*` among them."""
    other: Counter[str] = field(default_factory=Counter)
    """Number of files left out because of their names, by `leftovers.kind`."""
    seen: int = 0
    """Number of files and folders found so far."""
    most: float = inf
    """Number of files and folders after which no further folder is entered."""

    @property
    def cut(self) -> bool:
        """Whether the walk stopped early because of `most`."""
        return self.seen > self.most


@dataclass(frozen=True)
class Listing:
    """The files below a folder."""

    files: list[Path]
    """Files with the suffix of an image, sorted, and folders that cannot be listed."""
    left: LeftOut


def survey(folder: Path) -> Listing:
    """Return the files below `folder`; links to folders are followed once, and never to a parent of `folder`."""
    left = LeftOut()
    return Listing(list(walk(folder, left)), left)


def walk(folder: Path, left: LeftOut) -> Iterator[Path]:
    """Yield the files of `survey` in the same order, with only the names of one folder per depth in memory."""
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
    """Return whether an entry is a folder, or a link to one."""
    try:
        return entry.is_dir()
    except OSError:  # e.g. a link to itself
        return False


def is_hidden(name: str) -> bool:
    """Return whether the name is that of a dot file, or of the folder that macOS adds to archives."""
    return name.startswith(".") or name == "__MACOSX"


def _identity(folder: Path) -> tuple[int, int]:
    """Return device and inode of a folder, which are the same by whatever links it is reached."""
    status = folder.stat()
    return status.st_dev, status.st_ino
