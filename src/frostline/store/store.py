"""The store: pixels and features that are computed once, by whoever asks first, and found by everybody else.

Each entry is a folder `<kind>/<key[:2]>/<key>`. Beside it lie its lock and, while it is being filled, `<key>.part`:
one whose lock nobody holds is what a killed process left.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from filelock import Timeout
from platformdirs import user_cache_path
from torch import Tensor

from frostline.core import locks
from frostline.core.errors import user_error
from frostline.store import entries, mapped
from frostline.store.entries import DamagedEntry, Entry, Item

_KEY = "[0-9a-f]{64}"
_PATIENCE = 1.0  # seconds of waiting for another process after which the person is told


class _NoRoom(Exception):
    """The folder cannot take what is to be stored."""


class Writer:
    """Gives an entry that is being made the tensors to fill; owns the folder in which their files lie."""

    def __init__(self, part: Path | None = None, make_room: Callable[[int], None] = lambda size: None) -> None:
        """Without a folder the tensors lie in memory; `make_room` is told the size that the entry grows to."""
        self.tensors: dict[str, Tensor] = {}
        self.size = 0
        self.rejected: str | None = None
        """Why the entry is not to be kept."""
        self._part = part
        self._make_room = make_room

    def tensor(self, name: str, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Return a tensor of zeros to be filled in place, part of the entry under `name`."""
        assert name.isidentifier() and name not in self.tensors, name
        self.size += mapped.size_of(shape, dtype)
        if self._part is None:
            try:
                self.tensors[name] = torch.zeros(shape, dtype=dtype)
            except RuntimeError as error:
                reason = f"no memory for {name} of {self.size:,} bytes"
                raise OSError(errno.ENOMEM, reason) from error
            return self.tensors[name]
        self._make_room(self.size)
        try:
            self.tensors[name] = mapped.create(self._part / name, shape, dtype)
        except OSError as error:
            raise _NoRoom(error.strerror) from error
        return self.tensors[name]

    def put(self, name: str, start: int, values: Tensor) -> None:
        """Write `values` into the tensor called `name`, from its number `start` on in row-major order."""
        try:
            mapped.put(self.tensors[name], start, values)
        except OSError as error:
            raise _NoRoom(error.strerror or error) from error

    def reject(self, reason: str) -> None:
        """Have the entry serve whoever makes it, and nobody else."""
        self.rejected = reason


Make = Callable[[Writer], Mapping[str, Any]]
"""Fills an entry's tensors and returns what else is to be known of it, as plain values."""


class Store:
    """Owner of a folder of entries, each under the key that says what went into it."""

    def __init__(self, folder: Path | None, *, budget: int, say: Callable[[str], None]) -> None:
        """Without a folder nothing is kept; `budget` is in bytes; `say` shows a line to the person."""
        self.folder = folder
        self.budget = budget
        self._say = say

    @property
    def half(self) -> int:
        """Bytes that the pixels of a source may take, as the other half may be taken by its features."""
        return self.budget // 2

    def get(self, kind: str, key: str, make: Make, *, about: str) -> Entry:
        """Return the entry of `key` (sha256, hex), or make it while others that ask for the same wait.

        A damaged entry is made anew. Where the folder cannot take it, it is made in memory. What `make` raises is
        raised, and nothing is kept.
        """
        if self.folder is None:
            return _in_memory(make)
        place = self._place(kind, key)
        try:
            with suppress(DamagedEntry):  # looked at again under the lock: it may just be being removed
                if found := entries.find(place):
                    return found
            with self._locked(place, about):
                return self._find(place, about) or self._made(place, make, about)
        except _NoRoom as reason:
            self._say(f"store: {about} is kept in memory only, since {self.folder} cannot take it ({reason})")
            return _in_memory(make)

    def has(self, kind: str, key: str) -> bool:
        """Return whether there is an entry of `key`, without a look at what is in it."""
        return self.folder is not None and entries.exists(self._place(kind, key))

    def items(self) -> list[Item]:
        """Return what is in the store, the entry that was used last at the end."""
        if self.folder is None:
            return []
        found = (entries.item(place) for place in self.folder.glob("*/??/*") if re.fullmatch(_KEY, place.name))
        return sorted((item for item in found if item is not None), key=lambda item: item.used)

    def remove(self, item: Item) -> bool:
        """Remove an entry and return whether that was done: not while another process holds it."""
        try:
            with locks.held(_beside(item.place, ".lock"), timeout=0):
                _discard(item.place)
        except OSError:  # Timeout is one
            return False
        return True

    def tidy(self) -> int:
        """Remove what killed processes left half made, and return its size in bytes."""
        assert self.folder is not None
        freed = 0
        for part in self.folder.glob("*/??/*.part"):
            with suppress(OSError), locks.held(part.with_suffix(".lock"), timeout=0):
                freed += entries.size(part)
                shutil.rmtree(part, ignore_errors=True)
        return freed

    def _place(self, kind: str, key: str) -> Path:
        assert self.folder is not None and kind.isidentifier() and re.fullmatch(_KEY, key), (kind, key)
        return self.folder / kind / key[:2] / key

    @contextmanager
    def _locked(self, place: Path, about: str) -> Iterator[None]:
        """Hold the lock of an entry; says so if that takes a while."""
        path = _beside(place, ".lock")
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            try:
                lock = locks.acquire(path, timeout=_PATIENCE)
            except Timeout:
                self._say(f"store: waiting for another process that makes {about}")
                lock = locks.acquire(path)
        except OSError as error:
            raise _NoRoom(error.strerror) from error
        try:
            yield
        finally:
            lock.release()

    def _find(self, place: Path, about: str) -> Entry | None:
        """Return the entry at `place`, None where there is none to be trusted; its lock is held."""
        try:
            return entries.find(place)
        except DamagedEntry as damage:
            self._say(f"store: {about} is damaged ({damage}) and is made again")
            return None

    def _made(self, place: Path, make: Make, about: str) -> Entry:
        """Make an entry whose lock is held; one that cannot be kept lives as long as its tensors."""
        part = _beside(place, ".part")
        try:
            if place.exists() or place.is_symlink():
                _discard(place)  # damaged
            _clear(part)
            self.tidy()
            part.mkdir()
        except OSError as error:
            raise _NoRoom(error.strerror) from error
        try:
            writer = Writer(part, self._make_room)
            meta = _plain(make(writer))
            if writer.size > self.budget:
                writer.reject(f"its {writer.size:,} bytes exceed store.budget_gb")
            if writer.rejected:
                self._say(f"store: {about} is not kept, since {writer.rejected}")
                return Entry(writer.tensors, meta, made=True)
            try:
                entries.seal(part, key=place.name, about=about, meta=meta, tensors=writer.tensors)
                part.rename(place)
                found = entries.find(place)
            except (OSError, DamagedEntry) as error:
                self._say(f"store: {about} is not kept, since {self.folder} cannot take it ({error})")
                return Entry(writer.tensors, meta, made=True)
            return Entry(found.tensors if found else writer.tensors, meta, made=True)
        finally:
            shutil.rmtree(part, ignore_errors=True)

    def _make_room(self, size: int) -> None:
        """Remove what was used least recently until `size` bytes fit into the budget beside the rest."""
        items = self.items() if size <= self.budget else []
        excess = sum(item.size for item in items) + size - self.budget
        for item in items:
            if excess > 0 and self.remove(item):
                excess -= item.size


def open_store(*, enabled: bool, path: str | None, budget_gb: float, say: Callable[[str], None]) -> Store:
    """Return the store in `path`, else in FROSTLINE_STORE, else in the user's cache directory; see `Store`."""
    chosen = path or os.environ.get("FROSTLINE_STORE")
    try:
        folder = Path(chosen).expanduser().absolute() if chosen else user_cache_path("frostline")
    except RuntimeError:  # ~somebody
        key = "store.path" if path else "FROSTLINE_STORE"
        raise user_error(key, chosen, "a folder, and nobody has such a home") from None
    return Store(folder if enabled else None, budget=round(budget_gb * 1e9), say=say)


def _in_memory(make: Make) -> Entry:
    writer = Writer()
    meta = _plain(make(writer))
    return Entry(writer.tensors, meta, made=True)


def _plain(meta: Mapping[str, Any]) -> dict[str, Any]:
    """Return `meta` as it comes back from a file, so that it is the same whoever made it."""
    plain: dict[str, Any] = json.loads(json.dumps(dict(meta)))
    return plain


def _discard(place: Path) -> None:
    """Remove the files of an entry whose lock is held; nobody ever finds a part of it."""
    part = _beside(place, ".part")
    _clear(part)
    place.rename(part)
    _clear(part)


def _clear(place: Path) -> None:
    """Remove what lies at `place`, a folder or, on a disk that was mended, whatever else; `OSError` if that fails."""
    if place.is_dir() and not place.is_symlink():
        shutil.rmtree(place)
    else:
        place.unlink(missing_ok=True)


def _beside(place: Path, suffix: str) -> Path:
    return place.with_name(place.name + suffix)
