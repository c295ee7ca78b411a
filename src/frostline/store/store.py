"""The store: a cache on disk of pixels and features, shared by processes and computed by the first that needs them.

Each entry is a folder `<kind>/<key[:2]>/<key>`. Beside it are its lock and, while it is being made, `<key>.part`. A
`.part` folder whose lock is free was left by a killed process. It is removed, unless it has notes of finished work
(see `unfinished`), from which the next process that asks for the entry continues.

The budget is never exceeded: the room for a tensor is claimed, in the budget and on the disk, before it is filled.
Least recently used entries are evicted, but none that is in use.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import torch
from filelock import Timeout
from platformdirs import user_cache_path

from frostline.core import files, locks, memory
from frostline.core.errors import user_error
from frostline.store import entries, unfinished
from frostline.store.checksums import DamagedEntry
from frostline.store.entries import Entry, Item
from frostline.store.removal import alone, beside, clear, discard, tidy
from frostline.store.writer import Make, NoRoom, Writer, no_room_on_error

_KEY = "[0-9a-f]{64}"
_PATIENCE = 1.0  # seconds of waiting for another process before a message is shown
_SPARE, _SPARE_BYTES = 0.05, 5e9  # of the disk, at most these bytes: stays free for records, checkpoints and others


class Store:
    """A folder of entries, each under a key that is the hash of everything that decides its content."""

    def __init__(self, folder: Path | None, *, budget: int, say: Callable[[str], None]) -> None:
        """Without a folder nothing is kept; `budget` is in bytes; `say` shows a line to the user."""
        self.folder = folder
        self.budget = budget
        self._say = say
        self.unkept: list[str] = []
        """Descriptions of entries that were requested here and could not be kept."""

    @property
    def room_per_kind(self) -> int:
        """Bytes that the pixels of a data source may take, and as many that its features may take."""
        return self.room // 2

    @property
    def room(self) -> int:
        """Largest total size in bytes that budget and disk allow, or without a folder, a share of the memory."""
        if self.folder is None:
            return _memory()
        return min(self.budget, sum(item.size for item in self.items()) + max(0, _free(self.folder)))

    def get(self, kind: str, key: str, make: Make, *, about: str, family: str | None = None) -> Entry:
        """Return the entry of `key` (sha256, hex); make it if it is missing, while other requests for it wait.

        A damaged entry is made again. If the folder has no room, the entry is made in memory; `NoRoom` is raised if
        memory has no room either. An exception of `make` is passed on, and nothing is kept. An entry never evicts
        entries of its own `family`: they are used in turn, and each would evict the one that is needed next.
        """
        if self.folder is None:
            return _in_memory(make)
        place = self._place(kind, key)
        try:
            with suppress(DamagedEntry):  # read again under the lock: another process may be removing it
                if found := entries.find(place):
                    return found
            with self._locked(place, about):
                return self._find(place, about) or self._made(place, make, about, family)
        except NoRoom as reason:
            entry = _in_memory(make)
            self._not_kept(about, f"is kept in memory only, since {self.folder} cannot take it ({reason})")
            return entry

    def has(self, kind: str, key: str) -> bool:
        """Return whether there is an entry of `key`, without reading it."""
        return self.folder is not None and entries.exists(self._place(kind, key))

    def items(self) -> list[Item]:
        """Return the entries of the store, sorted by last use, the most recent one last."""
        if self.folder is None:
            return []
        found = (entries.item(place) for place in self.folder.glob("*/??/*") if re.fullmatch(_KEY, place.name))
        return sorted((item for item in found if item is not None), key=lambda item: item.used)

    def _place(self, kind: str, key: str) -> Path:
        assert self.folder is not None and kind.isidentifier() and re.fullmatch(_KEY, key), (kind, key)
        return self.folder / kind / key[:2] / key

    @contextmanager
    def _locked(self, place: Path, about: str) -> Iterator[None]:
        """Hold the lock of an entry within the block; show a message if waiting for it takes long."""
        path = beside(place, ".lock")
        with no_room_on_error():
            place.parent.mkdir(parents=True, exist_ok=True)
            try:
                lock = locks.acquire(path, timeout=_PATIENCE)
            except Timeout:
                self._say(f"store: waiting for another process that is computing {about}")
                lock = locks.acquire(path)
        try:
            yield
        finally:
            lock.release()

    def _find(self, place: Path, about: str) -> Entry | None:
        """Return the entry at `place`, None if there is none or it is damaged; the caller holds its lock."""
        try:
            return entries.find(place)
        except DamagedEntry as damage:
            self._say(f"store: {about} is damaged ({damage}) and is computed again")
            return None

    def _made(self, place: Path, make: Make, about: str, family: str | None) -> Entry:
        """Make an entry whose lock the caller holds; an entry that cannot be kept lives as long as its tensors."""
        part, stays = beside(place, ".part"), False
        notes = self._begin(place, part)
        try:
            writer = Writer(part, partial(self._claim, family=family), notes)
            meta = _plain(make(writer))
            found = self._keep(place, part, writer, {"about": about, "family": family, "meta": meta})
            return Entry(found.tensors if found else writer.tensors, meta, made=True)
        except KeyboardInterrupt:
            stays = unfinished.is_wanted(part)
            raise
        finally:
            if not stays:
                shutil.rmtree(part, ignore_errors=True)

    def _begin(self, place: Path, part: Path) -> list[Any]:
        """Prepare the folder `part` of an entry, and return the notes that a killed process left there; or `NoRoom`."""
        assert self.folder is not None
        with no_room_on_error():
            if place.exists() or place.is_symlink():
                discard(place)  # damaged
            notes = unfinished.notes(part)
            if not notes:
                clear(part)
                part.mkdir()
                unfinished.begin(part)
            tidy(self.folder, wanted=False)
        return notes

    def _keep(self, place: Path, part: Path, writer: Writer, facts: Mapping[str, Any]) -> Entry | None:
        """Seal the entry in `part`, move it to its `place` and return it; None, with a message, if it is not kept."""
        if writer.rejected:
            self._not_kept(facts["about"], f"is not kept, since {writer.rejected}")
            return None
        try:
            seal = entries.seal(part, {"key": place.name, **facts}, writer.tensors, writer.piecemeal)
            with self._claim(len(seal), facts["family"]):
                entries.finish(part, seal)
            unfinished.forget(part)
            part.rename(place)
            return entries.find(place)
        except (OSError, NoRoom, DamagedEntry) as error:
            self._not_kept(facts["about"], f"is not kept, since {self.folder} cannot take it ({error})")
            return None

    def _not_kept(self, about: str, why: str) -> None:
        self.unkept.append(about)
        self._say(f"store: {about} {why}")

    @contextmanager
    def _claim(self, size: int, family: str | None) -> Iterator[None]:
        """Make room for `size` bytes, to be used within the block, by evicting the least recently used entries.

        Raises `NoRoom`, and evicts nothing, if that does not suffice. Processes claim one after the other.
        """
        assert self.folder is not None
        with ExitStack() as held:
            with no_room_on_error():
                held.enter_context(locks.held(self.folder / "room.lock"))
            items = self.items()
            taken = sum(item.size for item in items) + sum(map(entries.size, self.folder.glob("*/??/*.part")))
            beyond = taken + size - self.budget
            excess, chosen = max(beyond, size - _free(self.folder)), list[Item]()
            if excess > 0:
                freed = tidy(self.folder)
                excess, beyond = excess - freed, beyond - freed
            for item in items if size <= self.budget else ():
                if excess > 0 and (family is None or item.family != family):
                    with suppress(OSError):
                        held.enter_context(alone(item))
                        chosen.append(item)
                        excess -= item.size
            if excess > 0 and beyond > 0:
                raise NoRoom(f"{size:,} bytes, more than store.budget_gb leaves beside entries in use")
            if excess > 0:
                raise NoRoom(os.strerror(errno.ENOSPC))
            with no_room_on_error():
                for item in chosen:
                    discard(item.place)
            yield


def open_store(*, enabled: bool, path: str | None, budget_gb: float, say: Callable[[str], None]) -> Store:
    """Return the store in `path`, else in FROSTLINE_STORE, else in the user's cache directory; see `Store`."""
    chosen = path or os.environ.get("FROSTLINE_STORE")
    try:
        folder = files.absolute(str(Path(chosen).expanduser())) if chosen else user_cache_path("frostline")
    except RuntimeError:  # ~somebody
        key = "store.path" if path else "FROSTLINE_STORE"
        raise user_error(key, chosen, "a folder; there is no such home") from None
    return Store(folder if enabled else None, budget=round(budget_gb * 1e9), say=say)


def _free(folder: Path) -> int:
    """Return the bytes that the disk of `folder` has left for the store; negative if less than the spare is free."""
    there = next((place for place in (folder, *folder.parents) if os.path.exists(place)), None)
    if there is None:
        return 0
    usage = shutil.disk_usage(there)
    return usage.free - round(min(_SPARE * usage.total, _SPARE_BYTES))


def _memory() -> int:
    """Return the bytes that an entry may take in memory."""
    return memory.budget(torch.device("cpu"), None)


@contextmanager
def _claim_memory(size: int) -> Iterator[None]:
    if size > _memory():
        raise NoRoom(f"{size:,} bytes, more than a third of the free memory")
    yield


def _in_memory(make: Make) -> Entry:
    writer = Writer(claim=_claim_memory)
    meta = _plain(make(writer))
    return Entry(writer.tensors, meta, made=True)


def _plain(meta: Mapping[str, Any]) -> dict[str, Any]:
    """Return `meta` after a round trip through JSON, so that a new entry equals one that is read."""
    plain: dict[str, Any] = json.loads(json.dumps(dict(meta)))
    return plain
