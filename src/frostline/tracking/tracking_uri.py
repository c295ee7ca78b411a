"""MLflow's tracking URI: which one is meant, checked, without credentials; and what follows from it."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import urlsplit

from frostline.core import credentials
from frostline.core.errors import user_error

_DATABASES = ("sqlite", "postgresql", "mysql", "mssql")
_SERVERS = ("http", "https")
_SQLITE = "sqlite:///"


def resolved(configured: str | None, root: Path, *, start: Path | None = None) -> str:
    """Return the absolute tracking URI without credentials: `configured`, else MLFLOW_TRACKING_URI, else `root`'s own.

    The project's own is an SQLite file, `root/mlruns/mlflow.db`; a relative file is from `start`, by default where the
    command was typed. A password in `configured` is refused (it would be copied into every run's config), as is what
    MLflow cannot track to or would take for another file than it looks like; all raise UserError.
    """
    uri = configured or os.environ.get("MLFLOW_TRACKING_URI")
    if not uri:
        return f"{_SQLITE}{(root / 'mlruns' / 'mlflow.db').resolve()}"
    safe = credentials.removed(uri)
    if configured and safe != configured:
        raise user_error("tracking.uri", safe, "no credentials in a config; put the whole URI into MLFLOW_TRACKING_URI")
    parts, kind = urlsplit(safe), _kind(safe)
    key = "tracking.uri" if configured else "MLFLOW_TRACKING_URI"
    if kind not in (*_DATABASES, *_SERVERS) or (is_server(safe) and not parts.hostname):
        raise user_error(key, safe, "sqlite:///<file>, http(s)://<server> or another database that MLflow knows")
    if is_server(safe):
        return safe.rstrip("/")  # one server, and one name of it, whose path may be a prefix
    if kind != "sqlite":
        return safe
    file = (start or Path.cwd()) / safe.removeprefix(_SQLITE)
    if not safe.startswith(_SQLITE) or parts.query or os.path.isdir(file) or file.name == ":memory:":
        expected = f"three slashes and a file, {_SQLITE}here.db or {_SQLITE}/from/the/top.db"
        raise user_error(key, safe, expected, [f"{_SQLITE}{_after(safe)}"])
    return f"{_SQLITE}{file.resolve()}"


def _after(uri: str) -> str:
    """Return the file that somebody may have meant by an SQLite address with other slashes, or with options."""
    rest = uri.partition(":")[2].partition("?")[0]
    return rest.removeprefix("//") if rest.startswith("//") and not rest.startswith("///") else rest.removeprefix("///")


def is_server(uri: str) -> bool:
    """Return whether the record is kept by a tracking server, not in a database that is opened here."""
    return urlsplit(uri).scheme in _SERVERS


def name(uri: str) -> str:
    """Return what the store is called among those that are kept beside each other, wherever they are moved."""
    file = file_of(uri)
    return uri if file is None else file.name


def portable(uri: str, root: Path) -> str:
    """Return the URI as `resolved` understands it wherever `root` is moved: of a file in it relative to it."""
    file, top = file_of(uri), root.resolve()
    return f"{_SQLITE}{file.relative_to(top)}" if file is not None and file.is_relative_to(top) else uri


def beside(uri: str, root: Path) -> Path:
    """Return the folder for what belongs to the store: that of an SQLite file, else the project's `mlruns`."""
    file = file_of(uri)
    return (root / "mlruns" if file is None else file.parent).resolve()


def file_of(uri: str) -> Path | None:
    """Return the file in which the store at `uri` lies, None for one that is no file."""
    return Path(uri.removeprefix(_SQLITE)) if _kind(uri) == "sqlite" else None


def _kind(uri: str) -> str:
    return urlsplit(uri).scheme.split("+")[0]
