"""Remove entries of the store, and what killed processes left of unfinished ones; the holder of a lock may remove."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import Timeout

from frostline.core import locks
from frostline.store import entries, unfinished
from frostline.store.entries import Item


def remove(item: Item) -> bool:
    """Remove an entry; return False if it is being made, in use or already removed.

    Raises OSError if its files cannot be removed.
    """
    try:
        with alone(item):
            discard(item.place)
    except (Timeout, BlockingIOError, FileNotFoundError):
        return False
    return True


def tidy(folder: Path, *, wanted: bool = True, refused: list[str] | None = None) -> int:
    """Remove the unfinished entries of killed processes in the store's `folder` and return their size in bytes.

    With `wanted=False`, those from which a process may continue stay. For each that cannot be removed, a line is
    added to `refused`.
    """
    freed = 0
    for part in folder.glob("*/??/*.part"):
        try:
            with locks.held(part.with_suffix(".lock"), timeout=0):
                if wanted or not unfinished.is_wanted(part):
                    taken = entries.size(part)
                    clear(part)
                    freed += taken
        except (Timeout, FileNotFoundError):
            continue
        except OSError as error:
            if refused is not None:
                refused.append(f"{part.parent.parent.name} {part.name}: {error.strerror}")
    return freed


@contextmanager
def alone(item: Item) -> Iterator[None]:
    """Hold an entry exclusively within the block; `OSError` if it is being made or in use."""
    with locks.held(beside(item.place, ".lock"), timeout=0), entries.exclusive(item.place):  # Timeout is an OSError
        yield


def discard(place: Path) -> None:
    """Remove the files of an entry whose lock the caller holds; no process ever finds a part of it."""
    part = beside(place, ".part")
    clear(part)
    place.rename(part)
    clear(part)


def clear(place: Path) -> None:
    """Remove the folder at `place`, or a file after a disk repair; `OSError` if that fails."""
    if place.is_dir() and not place.is_symlink():
        shutil.rmtree(place)
    else:
        place.unlink(missing_ok=True)


def beside(place: Path, suffix: str) -> Path:
    """Return the path beside an entry that has its name and this suffix."""
    return place.with_name(place.name + suffix)
