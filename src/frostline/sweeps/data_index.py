"""Detect changed data from the names, sizes and times of its files, without torch and without decoding images.

Data sets whose files are not all known here have no index; their fingerprint must be computed instead.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path

from frostline.core import files
from frostline.core.config import EMBEDDED, Config, DataConfig
from frostline.records import layout
from frostline.sweeps.visible_gpus import visible_gpu_names

_DRAWN_BY = ("scikit-learn", "matplotlib", "scipy", "pillow")
"""Packages that the embedded images come from."""


def index(configs: Iterable[Config], most: float = math.inf) -> dict[str, str] | None:
    """Return the index of the configs' data, by source and folder, and the visible GPUs.

    None if some data has none, or more than `most` files.
    """
    found: dict[str, str] = {}
    for data in {repr(config.data): config.data for config in configs}.values():
        place = str(files.absolute(data.root))
        key = f"{data.source} {place}"  # embedded sources have a root, too, though they read no files
        if (known := found.get(key) or _of(data, place, most)) is None:
            return None
        found[key] = known
    return {**found, "cards": " ".join(visible_gpu_names())}


def _of(data: DataConfig, place: str, most: float) -> str | None:
    if data.source in EMBEDDED:
        return " ".join(version(package) for package in _DRAWN_BY)
    return _of_folder(place, most) if data.source == "folder" else None


def _of_folder(place: str, most: float) -> str | None:
    """Return a hash of the names, sizes and times of all files below a folder.

    None if it contains linked folders, or more than `most` files.
    """
    told, count = hashlib.sha256(), 0
    for folder, folders, names in os.walk(place):
        folders.sort()
        if any(os.path.islink(os.path.join(folder, name)) for name in folders):  # noqa: PTH114, PTH118 - of many
            return None
        count += len(names)
        if count > most:
            return None
        for name in sorted(names):
            path = os.path.join(folder, name)  # noqa: PTH118
            told.update(f"{path} {files.facts(path)}\n".encode(errors="surrogateescape"))
    return told.hexdigest()


def write(folder: Path, found: dict[str, str] | None) -> None:
    """Write the result of `index`, taken before the data was read, into the `folder` of a sweep."""
    (folder / layout.DATA).unlink(missing_ok=True)
    if found is not None:
        files.write_json(folder / layout.DATA, found)


def is_same(folder: Path, found: dict[str, str] | None) -> bool:
    """Return whether `found` equals the index that was written for the sweep in `folder`."""
    return found is not None and bool(files.json_or_none(folder / layout.DATA) == found)
