"""Whether data are what they were, told by the sizes and times of their files, which takes no torch and no decoding.

Of a data set whose files are not all known here nothing is told: then its fingerprint is asked for.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path

from frostline.core import files
from frostline.core.config import EMBEDDED, Config, DataConfig
from frostline.records import layout
from frostline.sweeps.visible_gpus import visible_cards

_DRAWN_BY = ("scikit-learn", "matplotlib", "scipy", "pillow")
"""Packages that embedded pictures come from."""


def index(configs: Iterable[Config]) -> dict[str, str] | None:
    """Return what is to be the same where the data of the configs are, and what `auto` means here; None if unknown."""
    found: dict[str, str] = {}
    for data in {repr(config.data): config.data for config in configs}.values():
        place = str(files.expanded(data.root).absolute())
        key = f"{data.source} {place}"  # what reads no files has a root like any other
        if (known := found.get(key) or _of(data, place)) is None:
            return None
        found[key] = known
    return {**found, "cards": " ".join(visible_cards())}


def _of(data: DataConfig, place: str) -> str | None:
    if data.source in EMBEDDED:
        return " ".join(version(package) for package in _DRAWN_BY)
    return _of_folder(place) if data.source == "folder" else None


def _of_folder(place: str) -> str | None:
    """Return the hash over the names, sizes and times of all files below a folder; None where links lead elsewhere."""
    told = hashlib.sha256()
    for folder, folders, names in os.walk(place):
        folders.sort()
        if any(os.path.islink(os.path.join(folder, name)) for name in folders):  # noqa: PTH114, PTH118 - of many
            return None
        for name in sorted(names):
            path = os.path.join(folder, name)  # noqa: PTH118
            told.update(f"{path} {files.facts(path)}\n".encode(errors="surrogateescape"))
    return told.hexdigest()


def write(folder: Path, found: dict[str, str] | None) -> None:
    """Write into the `folder` of a sweep what `index` found before its data were looked at."""
    (folder / layout.DATA).unlink(missing_ok=True)
    if found is not None:
        files.write_json(folder / layout.DATA, found)


def is_same(folder: Path, found: dict[str, str] | None) -> bool:
    """Return whether that is what was found for the sweep in `folder`."""
    return found is not None and bool(files.json_or_none(folder / layout.DATA) == found)
