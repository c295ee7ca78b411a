"""MLflow's tracking URI: resolved from config or environment, validated, without credentials; and paths beside it."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from urllib.parse import urlsplit

from frostline.core import credentials, project
from frostline.core.errors import user_error

_DATABASES = ("sqlite", "postgresql", "mysql", "mssql")
_SERVERS = ("http", "https")
_SQLITE = "sqlite:///"


def resolved(configured: str | None, *, start: Path | None = None) -> str:
    """Return the absolute tracking URI without credentials: `configured`, else MLFLOW_TRACKING_URI, else the project's.

    The project's own is an SQLite file, `mlruns/mlflow.db` in it; a relative file is from `start`, by default the
    working directory. Raises UserError for a password in `configured` (it would be copied into every run's config), and
    for a URI that MLflow cannot use or would take for another file than it looks like.
    """
    uri = configured or os.environ.get("MLFLOW_TRACKING_URI")
    if not uri:
        return f"{_SQLITE}{(project.project_root() / 'mlruns' / 'mlflow.db').resolve()}"
    safe = credentials.removed(uri)
    if configured and safe != configured:
        raise user_error("tracking.uri", safe, "no credentials in a config; put the whole URI into MLFLOW_TRACKING_URI")
    parts, kind = urlsplit(safe), _kind(safe)
    key = "tracking.uri" if configured else "MLFLOW_TRACKING_URI"
    if kind not in (*_DATABASES, *_SERVERS) or (is_server(safe) and not parts.hostname):
        raise user_error(key, safe, "sqlite:///<file>, http(s)://<server> or another database that MLflow knows")
    if is_server(safe):
        return safe.rstrip("/")  # one name per server; its path may be a prefix
    if kind != "sqlite":
        return safe
    file = (start or Path.cwd()) / safe.removeprefix(_SQLITE)
    if not safe.startswith(_SQLITE) or parts.query or os.path.isdir(file) or file.name == ":memory:":
        expected = f"three slashes and a file, {_SQLITE}here.db or {_SQLITE}/from/the/top.db"
        raise user_error(key, safe, expected, [f"{_SQLITE}{_after(safe)}"])
    return f"{_SQLITE}{file.resolve()}"


def _after(uri: str) -> str:
    """Return the file probably meant by an SQLite URI with a wrong number of slashes, or with options."""
    rest = uri.partition(":")[2].partition("?")[0]
    return rest.removeprefix("//") if rest.startswith("//") and not rest.startswith("///") else rest.removeprefix("///")


def is_server(uri: str) -> bool:
    """Return whether the URI is a tracking server, rather than a database that this process opens."""
    return urlsplit(uri).scheme in _SERVERS


def name(uri: str) -> str:
    """Return the name of the store among those in one folder: the file's name, which survives a move; else the URI."""
    file = file_of(uri)
    return uri if file is None else file.name


def portable(uri: str) -> str:
    """Return the URI in a form that stays valid when the project is moved: a file in it becomes relative to it."""
    file, top = file_of(uri), project.project_root().resolve()
    return f"{_SQLITE}{file.relative_to(top)}" if file is not None and file.is_relative_to(top) else uri


def beside(uri: str) -> Path:
    """Return the folder for files that belong to the store: that of an SQLite file, else the project's `mlruns`."""
    file = file_of(uri)
    return (project.project_root() / "mlruns" if file is None else file.parent).resolve()


def file_of(uri: str) -> Path | None:
    """Return the SQLite file of the store at `uri`; None for other stores."""
    return Path(uri.removeprefix(_SQLITE)) if _kind(uri) == "sqlite" else None


def mlflow_command(uri: str, command: str) -> str:
    """Return the shell command by which MLflow carries out `command` in the store at `uri`, not in its default one."""
    where = '"$MLFLOW_TRACKING_URI"' if credentials.restored(uri) != uri else shlex.quote(uri)
    return f"MLFLOW_TRACKING_URI={where} mlflow {command}"


def _kind(uri: str) -> str:
    return urlsplit(uri).scheme.split("+")[0]
