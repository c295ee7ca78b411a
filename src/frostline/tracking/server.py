"""Connection to an MLflow store, a database or a server, with short timeouts; creates stores and experiments.

MLflow is imported when a store is opened, not with this module.
"""

from __future__ import annotations

import functools
import glob
import logging
import os
import sqlite3
import sys
import uuid
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from frostline.core import credentials, locks
from frostline.core.errors import UserError, user_error
from frostline.core.shared_context import shared
from frostline.tracking import artifact_root, database, relocation
from frostline.tracking.tracking_uri import beside, file_of, is_server, mlflow_command

if TYPE_CHECKING:
    from mlflow import MlflowClient

_SETTINGS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",  # seconds; 120 by default
    # A retried request may be carried out twice; the mirror first checks what the server has.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_LOGGING_LEVEL": "CRITICAL",  # it logs tracebacks of errors that it raises anyway
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
_LOGGERS = {"alembic": logging.WARNING, "urllib3": logging.ERROR}
_BUSY = 5.0  # seconds to wait for a lock on an SQLite file when it is opened
_UNKNOWN = "UNAUTHENTICATED"  # HTTP status 401
_HOPELESS = (_UNKNOWN, "CUSTOMER_UNAUTHORIZED", "PERMISSION_DENIED")
_LOGIN = "a server that knows you by MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD or by MLFLOW_TRACKING_TOKEN"
_LATER = (404, 408, 425, 429)  # statuses of a proxy whose server is away or overloaded, the same for all requests


class Unreachable(Exception):
    """MLflow does not answer now, but may later."""


def load(*, models: bool = True) -> None:
    """Configure and import MLflow: 1.3 to 2.3 s the first time in a process.

    Without `models`, NumPy, pandas and Arrow are not imported, as with `mlflow-skinny`, which saves 89 MB of 225 and a
    quarter of the time; nor is Pygments (5 MB), with which Alembic's templates would colour errors.
    """
    _set_up()
    if not models:  # if MLflow requires one of them, the second import below succeeds
        with suppress(ImportError), _absent("numpy", "pandas", "pyarrow", "pygments"):
            _import()
    _import()


def _set_up() -> None:
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    for name, level in _LOGGERS.items():
        logging.getLogger(name).setLevel(level)


@shared
@contextmanager
def isolated_settings() -> Iterator[None]:
    """Configure MLflow for our calls within the block, and restore its settings afterwards, for a notebook's calls."""
    variables = {name: os.environ.get(name) for name in _SETTINGS}
    loggers = {name: logging.getLogger(name).level for name in ("mlflow", *_LOGGERS)}
    if "mlflow" not in sys.modules:
        loggers["mlflow"] = logging.getLevelNamesMapping().get(variables["MLFLOW_LOGGING_LEVEL"] or "", logging.INFO)
    _set_up()
    try:
        yield
    finally:
        for name, value in variables.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        for name, level in loggers.items():
            logging.getLogger(name).setLevel(level)


def _import() -> None:
    import mlflow  # noqa: F401
    import mlflow.store.artifact.artifact_repository_registry  # noqa: F401
    import mlflow.store.tracking.sqlalchemy_store  # noqa: F401


@contextmanager
def _absent(*packages: str) -> Iterator[None]:
    """Hide those of the `packages` that are not imported yet, so that imports of them fail within the block."""
    hidden = dict.fromkeys(name for name in packages if name not in sys.modules)
    sys.modules.update(hidden)  # type: ignore[arg-type]
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]


@functools.cache
def client_of(uri: str) -> MlflowClient:
    """Return this process's client of the store, connected: 0.7 s the first time, cached afterwards.

    Raises `Unreachable` for a store that does not exist yet; only `experiment` creates one.
    """
    load()
    from mlflow import MlflowClient

    with _translated_errors(uri):
        if (file := file_of(uri)) is not None:
            _probe(file)
            if file.stat().st_size == 0:  # MLflow would create it in place: a crash would leave half of it
                raise Unreachable(f"{uri}: nothing has been recorded there")
            relocation.follow(file)
        elif not is_server(uri):
            database.probe(credentials.restored(uri))
        opened = MlflowClient(credentials.restored(uri))
        opened.search_experiments(max_results=1)
    return opened


def experiment(uri: str, name: str, artifacts: str | None = None, *, insist: bool = False) -> str:
    """Return the id of the experiment `name`, created if missing.

    A new experiment gets its artifacts under `artifacts`, by default beside the project's own store. A new store is
    created under a file lock, so that any number of processes can call this at once. Raises UserError if the store or
    the experiment can never be used, with `insist` also if it has another artifact root or the root is not reachable;
    raises Unreachable if they may be usable later.
    """
    with _translated_errors(uri), _creation_lock(uri):
        if (file := file_of(uri)) is not None:
            _create(file)
        opened = client_of(uri)
        found = opened.get_experiment_by_name(name)
        if found is None:
            tags = {"mlflow.experimentKind": "custom_model_development"}  # the UI opens its pages on training
            place = _artifact_location(uri, name, artifacts)
            if artifacts and place:
                tags[artifact_root.CHOSEN_TAG] = artifacts
                if insist:
                    artifact_root.require_usable(artifacts, place, uri)
            return opened.create_experiment(name, artifact_location=place, tags=tags)
    if found.lifecycle_stage != "active":
        restore = mlflow_command(uri, f"experiments restore -x {found.experiment_id}")
        expected = f"an experiment that is not deleted (`{restore}` restores it)"
        raise user_error("experiment_name", name, expected)
    if insist and artifacts and found.artifact_location.rstrip("/") != artifact_root.location(artifacts, name):
        raise artifact_root.differs(artifacts, found.artifact_location, name)
    return found.experiment_id


@contextmanager
def connected(uri: str) -> Iterator[MlflowClient]:
    """Yield the client of the store; within the block MLflow's errors become one line, as in `_translated_errors`."""
    with _translated_errors(uri):
        yield client_of(uri)


@contextmanager
def _translated_errors(uri: str) -> Iterator[None]:
    """Turn errors into one line that names the store or file: UserError if it can never work, else Unreachable."""
    try:
        yield
    except (UserError, Unreachable):
        raise
    except Exception as error:
        if _hopeless(error):
            expected = _LOGIN if getattr(error, "error_code", None) == _UNKNOWN else "a store that MLflow can open"
            raise user_error("tracking.uri", uri, f"{expected} ({first_line(error)})") from error
        if isinstance(error, OSError) and error.filename is not None and error.strerror:  # none of the network
            raise Unreachable(f"{error.filename}: {error.strerror}") from error
        raise Unreachable(f"{uri}: {first_line(_cause(error))}") from error


def refused(error: BaseException | None) -> bool:
    """Return whether this one request was refused, by a server or disk that works and may accept others."""
    asked = getattr(error, "get_http_status_code", None)  # MLflow's errors; `requests` has `response.status_code`
    status = asked() if asked else getattr(getattr(error, "response", None), "status_code", None)
    if status is not None:
        return 400 <= status < 500 and status not in (401, 403, *_LATER)
    local = isinstance(error, OSError) and not hasattr(error, "response")
    return local and not isinstance(error, ConnectionError | TimeoutError)


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, at most 200 characters, without passwords."""
    return credentials.scrubbed((str(error).strip().splitlines() or [type(error).__name__])[0])[:200]


def _cause(error: BaseException) -> BaseException:
    """Return the root cause of an error, e.g. a refused connection, which the later errors wrap."""
    while (earlier := error.__cause__ or error.__context__) is not None:
        error = earlier
    return error


def _hopeless(error: Exception) -> bool:
    """Return whether waiting would not help: a missing driver, a file that is no database, a wrong password."""
    if isinstance(error, sqlite3.Error):
        return "not a database" in str(error) or "malformed" in str(error)
    if getattr(error, "error_code", None) in _HOPELESS or "out-of-date database schema" in str(error):
        return True
    return isinstance(error, ImportError | UnicodeError) or database.refused(error)


def _probe(file: Path) -> None:
    """Raise sqlite3.Error within seconds if the file cannot be written; MLflow would retry for minutes."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(file, timeout=_BUSY, isolation_level=None)) as database:
        database.execute("BEGIN IMMEDIATE")
        database.execute("ROLLBACK")


def _create(file: Path) -> None:
    """Have MLflow create a missing database, and rename it into place; a half-created one could never be opened."""
    _probe(file)
    if file.stat().st_size > 0:
        return
    load()
    from mlflow import MlflowClient

    for old in file.parent.glob(f"{glob.escape(file.name)}.new.*"):  # left by a process that was killed here
        old.unlink(missing_ok=True)
    partial = file.with_name(f"{file.name}.new.{uuid.uuid4().hex}")  # MLflow keeps one that failed open, by its name
    opened = MlflowClient(f"sqlite:///{partial}")
    opened.search_experiments(max_results=1)
    with suppress(AttributeError):  # private API: without it the file stays open under its old name, which is harmless
        opened._tracking_client.store.engine.dispose()
    partial.replace(file)


def _creation_lock(uri: str) -> AbstractContextManager[object]:
    """Return the lock under which a store is created; a server needs none."""
    if is_server(uri):
        return nullcontext()
    file = file_of(uri) or beside(uri) / "store"
    file.parent.mkdir(parents=True, exist_ok=True)
    return locks.held(file.with_name(f"{file.name}.lock"))


def _artifact_location(uri: str, experiment: str, chosen: str | None) -> str | None:
    """Return the URI for the experiment's artifacts; None leaves the choice to a tracking server."""
    if chosen is None and is_server(uri):
        return None
    return artifact_root.location(chosen or (beside(uri) / "artifacts").as_uri(), experiment)
