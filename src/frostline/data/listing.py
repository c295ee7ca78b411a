"""Which files below a folder are pictures, by their names, and which are left out: hidden ones, and other kinds."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass, field
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


def survey(folder: Path) -> Listing:
    """Return what lies below `folder`, links to folders followed once, and never back to a folder that it lies in."""
    files: list[Path] = []
    hidden, other = 0, Counter[str]()
    seen = {_identity(above) for above in folder.resolve().parents}

    def unlisted(error: OSError) -> None:
        files.append(Path(error.filename))

    for top, folders, names in os.walk(folder, followlinks=True, onerror=unlisted):
        place = Path(top)
        identity = _identity(place)
        visible = [name for name in names if not is_hidden(name)]
        hidden += len(names) - len(visible) + sum(map(is_hidden, folders))
        folders[:] = [name for name in folders if not is_hidden(name)] if identity not in seen else []
        if identity in seen:
            continue
        seen.add(identity)
        pictures = [place / name for name in (*visible, *folders) if name.lower().endswith(SUFFIXES)]
        files += pictures
        other.update(leftovers.kind(name) for name in visible if not name.lower().endswith(SUFFIXES))
    return Listing(sorted(files), hidden, other)


def is_hidden(name: str) -> bool:
    """Return whether a file or folder of that name is no picture: a dot file, or what macOS puts into archives."""
    return name.startswith(".") or name == "__MACOSX"


def _identity(folder: Path) -> tuple[int, int]:
    """Return what tells a folder from others, by whatever links it was reached."""
    status = folder.stat()
    return status.st_dev, status.st_ino
