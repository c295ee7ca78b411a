"""Entries of the store as they lie on the disk: one raw file per tensor, and a sealed line that says what they are.

An entry is a folder. Its `entry.jsonl` is a line of JSON and a line with the sha256 of the first, in which stand the
checksums of the other files, so that no byte of an entry can change unnoticed. Only plain data is read.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from frostline.core import files
from frostline.store import mapped

_SEAL = "entry.jsonl"
_ODD = (ValueError, KeyError, TypeError, AttributeError)
"""Whatever an edited seal makes of those who read it."""


class DamagedEntry(Exception):
    """An entry is not what was written."""


@dataclass(frozen=True)
class Entry:
    """What was asked for."""

    tensors: dict[str, Tensor]
    """Mapped from the store's files, or in memory; not to be written to."""
    meta: dict[str, Any]
    made: bool
    """Whether this call computed it."""


@dataclass(frozen=True)
class Item:
    """An entry without its content."""

    place: Path
    kind: str
    about: str
    """What it is, for people; empty where the entry is damaged."""
    size: int
    """Bytes."""
    used: float
    """When it was last asked for, in seconds since 1970."""


_State = tuple[tuple[str, int, int], ...]
_verified: set[tuple[str, _State]] = set()
"""Seals whose files were checked by this process, and when those were last written."""


def seal(part: Path, *, key: str, about: str, meta: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Write down in the folder `part` what its files are; they are those of `tensors`.

    Nothing is synced to the disk: what a power failure takes is noticed by its checksum.
    """
    files = {
        name: {
            "dtype": str(tensor.dtype).removeprefix("torch."),
            "shape": list(tensor.shape),
            "crc32": mapped.checksum(part / name),
        }
        for name, tensor in tensors.items()
    }
    facts = {"key": key, "about": about, "meta": meta, "tensors": files}
    content = _sealed(json.dumps(facts))
    (part / _SEAL).write_bytes(content)
    _verified.add((_digest(content), _state(part, files)))


def exists(place: Path) -> bool:
    """Return whether an entry is at `place`, damaged or not."""
    return (place / _SEAL).exists()


def find(place: Path, *, trusted: bool = True) -> Entry | None:
    """Return the entry at `place`, None where there is none; raises `DamagedEntry`.

    What this process has checked before is not read again if `trusted`, unless its files were written since.
    """
    try:
        content = (place / _SEAL).read_bytes()
        facts = _facts(content, place.name)
        checked = (_digest(content), _state(place, facts["tensors"]))
        if not trusted or checked not in _verified:
            _compare(place, facts["tensors"])
            _verified.add(checked)
        tensors = {
            name: mapped.read(place / name, tuple(tensor["shape"]), mapped.DTYPES[tensor["dtype"]])
            for name, tensor in facts["tensors"].items()
        }
    except FileNotFoundError as error:
        if not place.exists():
            return None
        raise DamagedEntry(f"{Path(error.filename).name} is missing") from error
    except OSError as error:
        raise DamagedEntry(f"{Path(error.filename or place).name}: {error.strerror}") from error
    except (*_ODD, RuntimeError) as error:
        raise DamagedEntry(str(error)) from error
    if trusted:
        with suppress(OSError):
            os.utime(place / _SEAL)  # says when the entry was last used
    return Entry(tensors, facts["meta"], made=False)


def item(place: Path) -> Item | None:
    """Return what lies at `place`, None if it was removed meanwhile."""
    about, used = "", 0.0
    try:
        used = (place / _SEAL).stat().st_mtime
        about = str(_facts((place / _SEAL).read_bytes(), place.name)["about"])
    except (OSError, *_ODD, DamagedEntry):
        if not place.exists():
            return None
    return Item(place, place.parent.parent.name, about, size(place), used)


def size(folder: Path) -> int:
    """Return the size in bytes of the files in a folder, which may be going."""
    try:
        return sum(file.stat().st_size for file in folder.iterdir())
    except OSError:
        return 0


def _state(place: Path, names: Iterable[str]) -> _State:
    """Return for each file its name, its inode and when it was last written."""
    stats = ((name, (place / name).stat()) for name in names)
    return tuple((name, stat.st_ino, stat.st_mtime_ns) for name, stat in stats)


def _compare(place: Path, tensors: Mapping[str, Any]) -> None:
    for name, tensor in tensors.items():
        if mapped.checksum(place / name) != tensor["crc32"]:
            raise DamagedEntry(f"{name} has changed")


def _sealed(text: str) -> bytes:
    return f"{text}\n{hashlib.sha256(text.encode()).hexdigest()}\n".encode()


def _digest(content: bytes) -> str:
    """Return the last line of a seal, by which an entry is known."""
    return content.decode().splitlines()[-1]


def _facts(content: bytes, key: str) -> dict[str, Any]:
    """Return what a seal says; raises `DamagedEntry` where it is not what was written, or is another entry's."""
    text = content.decode(errors="replace").partition("\n")[0]
    if content != _sealed(text):
        raise DamagedEntry(f"{_SEAL} has changed")
    facts: dict[str, Any] = files.parsed(text)
    if facts["key"] != key or not all(name.isidentifier() for name in facts["tensors"]):
        raise DamagedEntry(f"{_SEAL} is not this entry's")
    return facts
