"""A PostgreSQL server for tests: FROSTLINE_POSTGRESQL is its URL, with the password.

Its user must be allowed to create databases; each test module gets its own, which is dropped afterwards.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import sqlalchemy

URL = os.environ.get("FROSTLINE_POSTGRESQL", "")


@contextmanager
def database() -> Iterator[str]:
    """Yield the URL of an empty database."""
    if not URL:
        pytest.skip("needs FROSTLINE_POSTGRESQL, e.g. postgresql+psycopg2://me:secret@127.0.0.1/postgres")
    server, name = sqlalchemy.create_engine(URL, isolation_level="AUTOCOMMIT"), f"frostline_{uuid.uuid4().hex}"
    with server.connect() as connection:
        connection.execute(sqlalchemy.text(f"create database {name}"))
        yield sqlalchemy.make_url(URL).set(database=name).render_as_string(hide_password=False)
        connection.execute(sqlalchemy.text(f"drop database {name} with (force)"))
    server.dispose()
