"""Databases of studies: the lock of all processes that write to one, and waiting while its server is down."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from pathlib import Path

import sqlalchemy

from frostline.core import credentials, locks
from frostline.core.errors import user_error
from frostline.tracking import database

Lock = Callable[[], AbstractContextManager[object]]
_LOOK = 2.0  # seconds between two attempts to connect
_KEY = 0x66726F73746C696E
"""Key of the advisory lock in PostgreSQL: `frostlin` in ASCII."""


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
            place, why = credentials.removed(url), credentials.one_line(error)
            if database.refused(error):
                raise user_error("search.storage", place, f"a database that lets us in ({why})") from error
            if not told:
                say(f"The search waits for {place}: {why}")
            told = True
            time.sleep(_LOOK)
        else:
            return
