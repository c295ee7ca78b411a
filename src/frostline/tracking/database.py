"""Connection check of a database server within seconds; MLflow itself retries for a hundred seconds in silence."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

_WAIT = 5  # seconds for a connection
_LIMITED = ("postgresql", "mysql")  # their drivers accept `connect_timeout`
_REFUSED = re.compile(
    "(password|peer|ident) authentication failed|no pg_hba.conf entry|no password supplied"
    r"|(database|role) .* does not exist|Access denied for user|Unknown database",
    re.IGNORECASE,
)
"""English messages of PostgreSQL and MySQL on errors that waiting does not cure, such as a wrong password."""


def probe(uri: str) -> None:
    """Connect once to the database at `uri`, credentials included; raise the driver's error if it is not reachable."""
    import sqlalchemy

    limit = {"connect_timeout": _WAIT} if urlsplit(uri).scheme.split("+")[0] in _LIMITED else {}
    engine = sqlalchemy.create_engine(uri, poolclass=sqlalchemy.pool.NullPool, connect_args=limit)
    engine.connect().close()


def refused(error: BaseException) -> bool:
    """Return whether waiting would not help: access denied, no such database, or an unknown driver."""
    from sqlalchemy import exc

    told = isinstance(error, exc.DBAPIError) and bool(_REFUSED.search(str(error)))
    return told or isinstance(error, exc.NoSuchModuleError)
