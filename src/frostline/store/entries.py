"""Format of store entries on disk: a folder with one raw file per tensor and a sealed description.

The description, `entry.jsonl`, is a line of JSON and a line with the sha256 of the first. The JSON has the checksums of
the other files, so that no byte of an entry can change unnoticed. Only plain data is read.

A process that uses an entry holds a shared lock on `entry.jsonl`, so that no other process removes the entry. On a file
system without locks nothing prevents the removal, but a process that has opened an entry can still read it.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Container, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from frostline.core import files, locks
from frostline.store import checksums, mapped
from frostline.store.checksums import Checks, DamagedEntry

_SEAL = "entry.jsonl"
_ODD = (ValueError, KeyError, TypeError, AttributeError)
"""Exceptions that an edited seal may cause in code that reads it."""


@dataclass(frozen=True)
class Entry:
    """An entry of the store with its content."""

    tensors: dict[str, Tensor]
    """Memory-mapped from the store's files, or in memory; do not write to them."""
    meta: dict[str, Any]
    made: bool
    """Whether this call computed it."""


@dataclass(frozen=True)
class Item:
    """An entry without its content."""

    place: Path
    kind: str
    about: str
    """Description for people; empty if the entry is damaged."""
    family: str | None
    """Common name of entries that are used in turn."""
    size: int
    """Bytes."""
    used: float
    """Time of the last use, in seconds since 1970."""


_Version = tuple[str, tuple[tuple[str, int, int], ...]]
"""The digest of an entry's seal, and the state of its files."""
_verified: dict[_Version, dict[str, Checks]] = {}
"""Checks of entries by this process."""
_distrusted: set[object] = set()
"""Versions of entries with a changed piece. In a store without write permission they stay."""


def seal(part: Path, facts: Mapping[str, Any], tensors: Mapping[str, Tensor], piecemeal: Container[str]) -> bytes:
    """Return the seal for the files of `tensors` in the folder `part`; those in `piecemeal` are verified when read.

    `facts` has the `key` of the entry, and its `about`, `family` and `meta`.
    """
    told = {
        name: {
            "dtype": str(tensor.dtype).removeprefix("torch."),
            "shape": list(tensor.shape),
            "piecemeal": name in piecemeal,
            "crc32": checksums.checksum(part / name),
        }
        for name, tensor in tensors.items()
    }
    return _sealed(json.dumps({**facts, "tensors": told}))


def finish(part: Path, content: bytes) -> None:
    """Finish the entry in the folder `part` by writing its seal; its files count as verified.

    Nothing is synced to the disk: checksums detect what a power failure destroys.
    """
    (part / _SEAL).write_bytes(content)
    told = json.loads(content.splitlines()[0])["tensors"]
    version = _version(part, content, told)
    _verified[version] = {name: checks.close() for name, checks in _checks(part, version, "", told).items()}


def distrust(versions: Iterable[object]) -> None:
    """Count entries as damaged in which some process has found a changed piece: `DamagedEntry.version` of each."""
    _distrusted.update(versions)


def distrusted() -> frozenset[object]:
    """Return the versions of entries in which a changed piece was found, for processes that this one starts."""
    return frozenset(_distrusted)


def exists(place: Path) -> bool:
    """Return whether an entry is at `place`, damaged or not."""
    return (place / _SEAL).exists()


def find(place: Path, *, trusted: bool = True) -> Entry | None:
    """Return the entry at `place`, None if there is none; raises `DamagedEntry` if its checksums do not match.

    If `trusted`, files that this process has verified and that have not changed since are not read again, and piecemeal
    tensors are verified piece by piece when a piece is first read. Otherwise all files are verified.
    """
    try:
        entry = _read(place, trusted=trusted)
    except BlockingIOError:  # another process is removing it
        return None
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
            os.utime(place / _SEAL)  # the time of last use
    return entry


def _read(place: Path, *, trusted: bool) -> Entry:
    """Return the entry at `place`, verified as `find` says; its lock is shared for as long as its tensors live."""
    use = locks.Shared(place / _SEAL)
    content = (place / _SEAL).read_bytes()
    facts = _facts(content, place.name)
    told = facts["tensors"]
    version = _version(place, content, told)
    if trusted and version in _distrusted:
        raise DamagedEntry("a piece has changed")
    checks = _verified.get(version)
    if checks is None or not trusted:
        checks = _checks(place, version, facts["about"], told)
        _compare(place, told, whole=not trusted)
        _verified[version] = checks
        _distrusted.discard(version)
    tensors = {
        name: mapped.read(
            place / name,
            tuple(tensor["shape"]),
            mapped.DTYPES[tensor["dtype"]],
            checks=checks[name] if tensor["piecemeal"] else None,
            use=use,
        )
        for name, tensor in told.items()
    }
    return Entry(tensors, facts["meta"], made=False)


def _checks(place: Path, version: _Version, about: str, tensors: Mapping[str, Any]) -> dict[str, Checks]:
    """Return the checks of each file of the entry at `place`, by name."""

    def damaged(name: str) -> DamagedEntry:
        with suppress(OSError):
            (place / _SEAL).unlink()  # without a seal the entry is not found, and is made again
        found = DamagedEntry(f"{about}: {name} has changed")
        found.version = version
        distrust([version])
        return found

    return {name: Checks(tensor["crc32"], partial(damaged, name)) for name, tensor in tensors.items()}


@contextmanager
def exclusive(place: Path) -> Iterator[None]:
    """Prevent the use of an entry, which may be damaged, within the block; `OSError` if it is in use."""
    with ExitStack() as held:
        with suppress(FileNotFoundError, NotADirectoryError):
            held.enter_context(locks.exclusive(place / _SEAL))
        yield


def item(place: Path) -> Item | None:
    """Return a description of the entry at `place`, None if it was removed meanwhile."""
    about, family, used = "", None, 0.0
    try:
        used = (place / _SEAL).stat().st_mtime
        facts = _facts((place / _SEAL).read_bytes(), place.name)
        about, family = str(facts["about"]), facts["family"]
    except (OSError, *_ODD, DamagedEntry):
        if not place.exists():
            return None
    return Item(place, place.parent.parent.name, about, family, size(place), used)


def size(folder: Path) -> int:
    """Return the size in bytes of the files in a folder; 0 if it is removed meanwhile."""
    try:
        return sum(file.stat().st_size for file in folder.iterdir())
    except OSError:
        return 0


def _version(place: Path, content: bytes, names: Iterable[str]) -> _Version:
    """Return the digest of the seal `content`, and name, inode and modification time (ns) of each file."""
    stats = ((name, (place / name).stat()) for name in names)
    return _digest(content), tuple((name, stat.st_ino, stat.st_mtime_ns) for name, stat in stats)


def _compare(place: Path, tensors: Mapping[str, Any], *, whole: bool) -> None:
    """Verify the checksums of files: all of them if `whole`, else those not read piecemeal; raises `DamagedEntry`."""
    for name, tensor in tensors.items():
        if (whole or not tensor["piecemeal"]) and checksums.checksum(place / name) != tensor["crc32"]:
            raise DamagedEntry(f"{name} has changed")


def _sealed(text: str) -> bytes:
    return f"{text}\n{hashlib.sha256(text.encode()).hexdigest()}\n".encode()


def _digest(content: bytes) -> str:
    """Return the last line of a seal, the sha256 that identifies the entry."""
    return content.decode().splitlines()[-1]


def _facts(content: bytes, key: str) -> dict[str, Any]:
    """Return the JSON of a seal; raises `DamagedEntry` if it was changed or belongs to another entry."""
    text = content.decode(errors="replace").partition("\n")[0]
    if content != _sealed(text):
        raise DamagedEntry(f"{_SEAL} has changed")
    facts: dict[str, Any] = files.parsed(text)
    if facts["key"] != key or not all(name.isidentifier() for name in facts["tensors"]):
        raise DamagedEntry(f"{_SEAL} is not this entry's")
    return facts
