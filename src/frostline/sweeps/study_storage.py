"""Storages of studies: a file in the sweep's folder, or a file or database shared by several searches; their locks."""

from __future__ import annotations

import errno
import json
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy
from optuna.exceptions import OptunaError
from optuna.storages import BaseStorage, InMemoryStorage, JournalStorage, RDBStorage, get_storage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial
from sqlalchemy.exc import SQLAlchemyError

from frostline.core import credentials, files, locks, notices
from frostline.core.config import SearchConfig
from frostline.core.errors import UserError, one_line, user_error
from frostline.records import journal, layout
from frostline.tracking import database

T = TypeVar("T")
Lock = Callable[[], AbstractContextManager[object]]
_LOOK = 2.0  # seconds between two attempts to connect
_LOSSES = 3  # lost connections after which a further one is an error
_BEGIN = b'{"op_code"'
"""The first bytes of a journal."""
_KEY = 0x66726F73746C696E
"""Key of the advisory lock in PostgreSQL: `frostlin` in ASCII."""


class StudyJournal(JournalFileBackend):
    """Optuna's journal in a file, which a full disk does not damage: Optuna would append to the torn line that it left.

    A killed process releases the lock at once, unlike Optuna's own, which stay for half a minute.
    """

    def __init__(self, file: Path, lock: Path) -> None:
        super().__init__(str(file))
        self._file, self._held = file, partial(locks.held, lock)

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Append a line for each of `logs`; OSError names the file."""
        lines = "".join(json.dumps(log, separators=(",", ":")) + "\n" for log in logs)
        with self._held():
            journal.append_lines(self._file, lines, sync=True)


@dataclass(frozen=True)
class Storage:
    """A storage of studies with its locks."""

    backend: BaseStorage
    shared: bool = False
    """Whether other searches may take part in the studies."""
    deciding: Lock = nullcontext
    """Lets no other process make decisions within a block; some databases have no lock for that."""
    ready: Callable[[Callable[[str], object]], object] = lambda say: None
    """Waits until the storage can be reached; calls its argument with a message while waiting."""

    def patiently(self, ask: Callable[[], T]) -> T:
        """Return the value of `ask`, a function that may be called again; if the storage is lost, wait for it."""
        for _ in range(_LOSSES):
            try:
                return ask()
            except (OptunaError, SQLAlchemyError):
                self.ready(notices.tell)
        return ask()

    def mark(self, trial: FrozenTrial, marks: Mapping[str, object]) -> None:
        """Write marks of a trial (`trial_marks`)."""
        for key, value in marks.items():
            self.backend.set_trial_user_attr(trial._trial_id, key, value)

    def report(self, trial: FrozenTrial, epochs: Sequence[float]) -> None:
        """Write the values of a trial's epochs that the storage lacks; `epochs` begins with the first epoch."""
        for epoch in range(len(trial.intermediate_values), len(epochs)):
            self.backend.set_trial_intermediate_value(trial._trial_id, epoch + 1, float(epochs[epoch]))


def storage_of(search: SearchConfig, folder: Path | None) -> Storage:
    """Return the storage of `search.storage`, else a file in the sweep's `folder`, or memory without a folder.

    Raises `UserError` if `search.storage` cannot be opened.
    """
    if search.storage is not None:
        try:
            return _shared(search.storage)
        except Exception as error:  # the class depends on the database's driver
            expected = f"a storage URL that Optuna can open, or a file ({_why(error)})"
            raise user_error("search.storage", credentials.scrubbed(search.storage), expected) from None
    if folder is None:
        return Storage(InMemoryStorage())
    return Storage(_journal(folder / layout.STUDY, folder / layout.STUDY_LOCK))


def _shared(place: str) -> Storage:
    if "://" in place:
        if _in_memory(place):
            raise ValueError("another process sees no database in memory; a file has three slashes, sqlite:///here.db")
        with lock_of(place)():  # of several processes, one creates the tables
            backend = _database(place)
        return Storage(backend, shared=True, deciding=lock_of(place), ready=partial(wait_for, place))
    if re.match(r"[a-z0-9+]{2,}:", place):
        raise ValueError("a URL has :// behind its first word, as sqlite:///studies.db")
    file = files.absolute(place)
    lock, deciding = (file.with_name(f".{file.name}.{what}") for what in ("lock", "deciding"))
    return Storage(_journal(file, lock), shared=True, deciding=partial(locks.held, deciding))


def _in_memory(url: str) -> bool:
    place = sqlalchemy.make_url(url)
    inside = ":memory:" in (place.database or ":memory:") or place.query.get("mode") == "memory"
    return inside and place.get_backend_name() == "sqlite"


def _database(url: str) -> BaseStorage:
    """Return the storage in a database; a server may have been restarted since the last query, hence pre-ping."""
    return get_storage(RDBStorage(url, engine_kwargs={"pool_pre_ping": True}))


def _journal(file: Path, lock: Path) -> JournalStorage:
    with locks.held(lock):
        _cut_torn_line(file)
    return JournalStorage(StudyJournal(file, lock))


@contextmanager
def refusing_damage(folder: Path) -> Iterator[None]:
    """Raise `UserError` if the block, which opens the studies of the sweep in `folder`, finds them damaged."""
    try:
        yield
    except (ValueError, LookupError, TypeError, AttributeError, AssertionError, OptunaError) as error:
        if isinstance(error, UserError):
            raise
        expected = f"the trials of a search, but the file is damaged ({one_line(error)})"
        hint = "delete it and type the command again: finished trials are not run again"
        raise UserError(f"{folder / layout.STUDY}: expected {expected}; {hint}") from error


@contextmanager
def in_one_line(search: SearchConfig) -> Iterator[None]:
    """Raise `OSError`, which ends in one line, if the block loses `search.storage`, e.g. read-only or gone."""
    try:
        yield
    except (OptunaError, SQLAlchemyError) as error:
        if search.storage is None:
            raise
        raise OSError(errno.EIO, _why(error.__cause__ or error), credentials.removed(search.storage)) from error


def _why(error: BaseException) -> str:
    """Return the message of a database's driver, or else of the error, in one line."""
    return credentials.one_line(getattr(error, "orig", None) or error)


def _cut_torn_line(file: Path) -> None:
    """Cut off the last line of a journal if a kill left it without its newline: Optuna would append to it.

    Raises ValueError for another file, which stays as it is.
    """
    content = file.read_bytes() if file.exists() else b""
    if not _BEGIN.startswith(content[: len(_BEGIN)]):
        raise ValueError("it is no journal of Optuna; a database needs its URL, as sqlite:///studies.db")
    if (whole := content.rfind(b"\n") + 1) < len(content):
        os.truncate(file, whole)


def lock_of(url: str) -> Lock:
    """Return a function that holds the lock of the database at `url`: a file beside SQLite's, or PostgreSQL's own.

    A killed process releases the lock at once. Other databases have no lock.
    """
    place = sqlalchemy.make_url(url)
    if place.get_backend_name() == "postgresql":
        return partial(_advisory, url)
    if place.get_backend_name() == "sqlite" and place.database and place.database != ":memory:":
        file = Path(place.database).absolute()
        return partial(locks.held, file.with_name(f".{file.name}.deciding"))
    return nullcontext


@contextmanager
def _advisory(url: str) -> Iterator[None]:
    """Hold the lock for a transaction, which also ends with its connection, even behind a connection pooler.

    See https://www.postgresql.org/docs/current/explicit-locking.html#ADVISORY-LOCKS.
    """
    with sqlalchemy.create_engine(url, poolclass=sqlalchemy.pool.NullPool).begin() as connection:
        connection.execute(sqlalchemy.select(sqlalchemy.func.pg_advisory_xact_lock(_KEY)))
        yield


def wait_for(url: str, say: Callable[[str], object]) -> None:
    """Wait until the server of the database at `url` accepts connections; call `say` once while waiting.

    Raises UserError if the server refuses us. Returns at once for SQLite, which has no server.
    """
    told = False
    while sqlalchemy.make_url(url).get_backend_name() != "sqlite":
        try:
            database.probe(url)
        except Exception as error:  # the driver's own class
            place, why = credentials.removed(url), _why(error)
            if database.refused(error):
                raise user_error("search.storage", place, f"a database that lets us in ({why})") from error
            if not told:
                say(f"The search waits for {place}: {why}")
            told = True
            time.sleep(_LOOK)
        else:
            return
