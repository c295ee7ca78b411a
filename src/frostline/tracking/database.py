"""A database that a server keeps, tried for seconds: MLflow itself tries for a hundred before it says anything."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

_WAIT = 5  # seconds for a connection
_LIMITED = ("postgresql", "mysql")  # whose drivers take `connect_timeout`
_REFUSED = re.compile(
    "(password|peer|ident) authentication failed|no pg_hba.conf entry|no password supplied"
    r"|(database|role) .* does not exist|Access denied for user|Unknown database",
    re.IGNORECASE,
)
"""What PostgreSQL and MySQL say, in English, to somebody who will never come in as he is."""


def probe(uri: str) -> None:
    """Raise what its driver raises where the database at `uri`, credentials included, takes no connection now."""
    import sqlalchemy

    limit = {"connect_timeout": _WAIT} if urlsplit(uri).scheme.split("+")[0] in _LIMITED else {}
    engine = sqlalchemy.create_engine(uri, poolclass=sqlalchemy.pool.NullPool, connect_args=limit)
    engine.connect().close()


def refused(error: BaseException) -> bool:
    """Return whether to wait would not help: a database that has no place for whoever asks, a driver nobody knows."""
    from sqlalchemy import exc

    told = isinstance(error, exc.DBAPIError) and bool(_REFUSED.search(str(error)))
    return told or isinstance(error, exc.NoSuchModuleError)
