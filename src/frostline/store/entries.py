"""Entries of the store as they lie on the disk: one raw file per tensor, and a sealed line that says what they are.

An entry is a folder. Its `entry.jsonl` is a line of JSON and a line with the sha256 of the first, in which stand the
checksums of the other files, so that no byte of an entry can change unnoticed. Only plain data is read.

Who has an entry holds a shared lock on that file, so that nobody removes what is in use; where the file system has no
locks, nothing is protected, and who has an entry can still read it.
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
"""Whatever an edited seal makes of those who read it."""


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
    family: str | None
    """What entries have in common that are asked for in turn."""
    size: int
    """Bytes."""
    used: float
    """When it was last asked for, in seconds since 1970."""


_State = tuple[tuple[str, int, int], ...]
_verified: dict[tuple[str, _State], dict[str, Checks]] = {}
"""What of an entry was checked by this process, by its seal and by when its files were last written."""


def seal(part: Path, facts: Mapping[str, Any], tensors: Mapping[str, Tensor], piecemeal: Container[str]) -> bytes:
    """Return the seal of the files of `tensors` in the folder `part`, some of which are read `piecemeal`.

    `facts` are the `key` of the entry, and `about`, `family` and `meta` as they are read again.
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
    """Finish the entry in the folder `part` with its seal; its files count as checked.

    Nothing is synced to the disk: what a power failure takes is noticed by its checksum.
    """
    (part / _SEAL).write_bytes(content)
    told = json.loads(content.splitlines()[0])["tensors"]
    checked = {name: checks.close() for name, checks in _checks(part, "", told).items()}
    _verified[_digest(content), _state(part, told)] = checked


def exists(place: Path) -> bool:
    """Return whether an entry is at `place`, damaged or not."""
    return (place / _SEAL).exists()


def find(place: Path, *, trusted: bool = True) -> Entry | None:
    """Return the entry at `place`, None where there is none; raises `DamagedEntry`.

    What this process has checked before is not read again if `trusted`, unless its files were written since, nor is
    what is read piecemeal: it is checked piece by piece when a piece is first read.
    """
    try:
        use = locks.Shared(place / _SEAL)
        content = (place / _SEAL).read_bytes()
        facts = _facts(content, place.name)
        told = facts["tensors"]
        checks = _verified.get((_digest(content), _state(place, told)))
        if checks is None or not trusted:
            checks = _checks(place, facts["about"], told)
            _compare(place, told, whole=not trusted)
            _verified[_digest(content), _state(place, told)] = checks
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
    except BlockingIOError:  # just being removed
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
            os.utime(place / _SEAL)  # says when the entry was last used
    return Entry(tensors, facts["meta"], made=False)


def _checks(place: Path, about: str, tensors: Mapping[str, Any]) -> dict[str, Checks]:
    """Return by name what is to be compared of the files of the entry at `place`."""

    def damaged(name: str) -> DamagedEntry:
        with suppress(OSError):
            (place / _SEAL).unlink()  # nobody finds it any more, and who asks for it makes it again
        return DamagedEntry(f"{about}: {name} has changed")

    return {name: Checks(tensor["crc32"], partial(damaged, name)) for name, tensor in tensors.items()}


@contextmanager
def unused(place: Path) -> Iterator[None]:
    """Keep an entry, which may be damaged, from being used within the block; `OSError` where it is in use."""
    with ExitStack() as held:
        with suppress(FileNotFoundError, NotADirectoryError):
            held.enter_context(locks.alone(place / _SEAL))
        yield


def item(place: Path) -> Item | None:
    """Return what lies at `place`, None if it was removed meanwhile."""
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
    """Return the size in bytes of the files in a folder, which may be going."""
    try:
        return sum(file.stat().st_size for file in folder.iterdir())
    except OSError:
        return 0


def _state(place: Path, names: Iterable[str]) -> _State:
    """Return for each file its name, its inode and when it was last written."""
    stats = ((name, (place / name).stat()) for name in names)
    return tuple((name, stat.st_ino, stat.st_mtime_ns) for name, stat in stats)


def _compare(place: Path, tensors: Mapping[str, Any], *, whole: bool) -> None:
    """Compare files with their checksums, as a `whole` or but for what is read piecemeal."""
    for name, tensor in tensors.items():
        if (whole or not tensor["piecemeal"]) and checksums.checksum(place / name) != tensor["crc32"]:
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
