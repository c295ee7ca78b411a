"""The record of sweeps and runs: the only place that knows MLflow.

Every call names its run explicitly (no global active run) and is synchronous, so that a killed process loses nothing.
MLflow is imported when a sweep is opened, not when this module is.
"""

from __future__ import annotations

import functools
import json
import logging
import math
import os
import re
import shlex
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

from filelock import FileLock

from frostline import credentials
from frostline.config import UserError, user_error
from frostline.results import Result

if TYPE_CHECKING:
    from mlflow import MlflowClient

_DATABASES = ("sqlite", "postgresql", "mysql", "mssql")
_SERVERS = ("http", "https")
_BATCH = 100  # params per call: MAX_PARAMS_TAGS_PER_BATCH of mlflow.utils.validation
_PARAM = 6000  # characters: MAX_PARAM_VAL_LENGTH
_DIGEST = 36  # characters: MAX_DATASET_DIGEST_SIZE
_REASON = 500  # characters of a failure's reason that are kept: enough for one line that a person reads
_CONTEXTS = {"train": "training", "val": "validation", "test": "testing"}


@dataclass(frozen=True)
class Tracker:
    """Where a sweep's record is: plain facts that a launcher can carry to any process."""

    uri: str
    """Tracking URI without credentials; those stay in MLFLOW_TRACKING_URI."""
    experiment_id: str
    sweep_run_id: str


class Record:
    """The record of one run while it is being written."""

    def __init__(self, client: MlflowClient, run_id: str) -> None:
        self._client = client
        self.run_id = run_id

    def metrics(self, values: Mapping[str, float], step: int = 0) -> None:
        """Write `values` at `step` (an epoch, 1-based). Infinity is written as nan: SQL stores would clip it."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        finite = {key: float(value) if math.isfinite(value) else math.nan for key, value in values.items()}
        self._client.log_batch(self.run_id, metrics=[Metric(key, value, now, step) for key, value in finite.items()])

    def dataset(self, *, name: str, source: str, digest: str, images: Mapping[str, int]) -> None:
        """Write which data the run saw: one input per split of `images` (counts by `train`, `val`, `test`)."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        inputs = []
        for split, count in images.items():
            profile = json.dumps({"images": count, "fingerprint": digest})
            data = Dataset(f"{name} {split}", digest[:_DIGEST], "code", json.dumps({"source": source}), profile=profile)
            inputs.append(DatasetInput(data, [InputTag("mlflow.data.context", _CONTEXTS[split])]))
        self._client.log_inputs(self.run_id, datasets=inputs)

    def artifact(self, path: Path, folder: str | None = None) -> None:
        """Keep a copy of the file at `path` under its own name, in `folder` of the run's artifacts."""
        self._client.log_artifact(self.run_id, str(path), folder)

    def tag(self, key: str, value: str) -> None:
        """Write one tag."""
        self._client.set_tag(self.run_id, key, value)


def tracking_uri(configured: str | None, root: Path) -> str:
    """Return the absolute tracking URI without credentials: `configured`, else MLFLOW_TRACKING_URI, else `root`'s own.

    The project's own is an SQLite file, `root/mlruns/mlflow.db`. A password in `configured` is refused (it would be
    copied into every run's config), as is a scheme that MLflow cannot track to; both raise UserError.
    """
    uri = configured or os.environ.get("MLFLOW_TRACKING_URI")
    if not uri:
        return f"sqlite:///{(root / 'mlruns' / 'mlflow.db').resolve()}"
    safe = credentials.removed(uri)
    if configured and safe != configured:
        raise user_error("tracking.uri", safe, "no credentials in a config; put the whole URI into MLFLOW_TRACKING_URI")
    scheme = urlsplit(uri).scheme.split("+")[0]
    if scheme not in (*_DATABASES, *_SERVERS):
        key = "tracking.uri" if configured else "MLFLOW_TRACKING_URI"
        raise user_error(key, safe, "sqlite:///<file>, http(s)://<server> or another database that MLflow knows")
    return f"sqlite:///{(root / uri.removeprefix('sqlite:///')).resolve()}" if scheme == "sqlite" else safe


def open_sweep(uri: str, *, root: Path, experiment_name: str, name: str, tags: Mapping[str, str]) -> Tracker:
    """Return the tracker of a new sweep: its parent run, in an experiment that is created where it is missing.

    A fresh store is created under a file lock, so that any number of processes may come at once. Raises UserError
    where the store cannot be opened or the experiment cannot be used.
    """
    with _user_errors(uri), _store_lock(uri, root):
        client = client_of(uri)
        experiment_id = _experiment(client, uri, root, experiment_name)
        run = client.create_run(experiment_id, run_name=name, tags=dict(tags))
    return Tracker(uri, experiment_id, run.info.run_id)


def close_sweep(tracker: Tracker, *, status: str, description: str, results: Sequence[Result]) -> None:
    """Write the sweep's `description` (Markdown) and `results.json`, and end it and every run of it still open.

    A run that is still open belongs to a process that was killed without a chance to say so.
    """
    client, sweep = client_of(tracker.uri), tracker.sweep_run_id
    client.set_tag(sweep, "mlflow.note.content", description)
    client.log_text(sweep, json.dumps([asdict(result) for result in results], indent=1, default=str), "results.json")
    still_open = f"tags.mlflow.parentRunId = '{sweep}' and attributes.status = 'RUNNING'"
    for run in client.search_runs([tracker.experiment_id], still_open, max_results=50_000):
        _end(client, run.info.run_id, "KILLED", "the process of this run ended without a word")
    client.set_terminated(sweep, status)


@contextmanager
def record(tracker: Tracker, *, name: str, tags: Mapping[str, str], params: Mapping[str, Any]) -> Iterator[Record]:
    """Yield the record of a new run of the sweep; when the block ends, so does the run.

    It ends FINISHED, FAILED on an exception or SystemExit, or KILLED on KeyboardInterrupt, with the reason in the tag
    `frostline.reason`; whatever was raised is raised again.
    """
    client = client_of(tracker.uri)
    parent = {"mlflow.parentRunId": tracker.sweep_run_id}
    run_id = client.create_run(tracker.experiment_id, run_name=name, tags={**tags, **parent}).info.run_id
    try:
        _write_params(client, run_id, params)
        yield Record(client, run_id)
    except BaseException as error:
        status = "KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED"
        _end(client, run_id, status, reason(error))
        raise
    client.set_terminated(run_id, "FINISHED")


def reason(error: BaseException) -> str:
    """Return why a run ended in one line: a person's mistake as it stands, anything else with its type in front."""
    kind = "" if isinstance(error, UserError) else type(error).__name__
    text = credentials.scrubbed(" ".join(str(error).split()))
    return ": ".join(part for part in (kind, text) if part)[:_REASON]


def fetch_artifact(uri: str, run_id: str, name: str, folder: Path) -> Path:
    """Return where in `folder` the run's artifact `name` (a relative path with `/`) was put.

    Raises UserError for an unknown run or artifact, and for a name that would leave the folder.
    """
    from mlflow.exceptions import MlflowException

    path, wanted = PurePosixPath(name), f"runs:/{run_id}/{name}"
    if not re.fullmatch(r"[0-9a-f]{32}", run_id) or path.is_absolute() or ".." in path.parts or "\\" in name:
        raise user_error("model.weights", wanted, "runs:/<run id of 32 hex digits>")
    try:
        local = Path(client_of(uri).download_artifacts(run_id, name, str(folder))).resolve()
    except (MlflowException, OSError) as error:
        where = f"a run with the artifact {name} in {uri} ({_first_line(error)})"
        raise user_error("model.weights", wanted, where) from None
    if not local.is_file() or not local.is_relative_to(folder.resolve()):
        raise user_error("model.weights", wanted, "a file among the run's artifacts")
    return local


def ui_command(uri: str) -> str:
    """Return the shell command that shows the record in a browser; for a tracking server its address."""
    if urlsplit(uri).scheme in _SERVERS:
        return uri
    shown = '"$MLFLOW_TRACKING_URI"' if credentials.restored(uri) != uri else shlex.quote(uri)
    return f"mlflow ui --backend-store-uri {shown}"


@functools.cache
def client_of(uri: str) -> MlflowClient:
    """Return this process's client of the store, opened: 0.7 s the first time, nothing afterwards."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    logging.getLogger("alembic").setLevel(logging.WARNING)
    from mlflow import MlflowClient

    client = MlflowClient(credentials.restored(uri))
    client.search_experiments(max_results=1)
    return client


def _store_lock(uri: str, root: Path) -> AbstractContextManager[object]:
    """Return the lock under which a store is created; a server looks after itself."""
    if urlsplit(uri).scheme in _SERVERS:
        return nullcontext()
    file = Path(uri.removeprefix("sqlite:///")) if uri.startswith("sqlite:") else root / "mlruns" / "store"
    file.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(f"{file}.lock")


@contextmanager
def _user_errors(uri: str) -> Iterator[None]:
    """Turn what MLflow raises while a store is opened into one line that names the store."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise user_error("tracking.uri", uri, f"a store that MLflow can open ({_first_line(error)})") from error


def _experiment(client: MlflowClient, uri: str, root: Path, name: str) -> str:
    """Return the id of the experiment `name`, created with its artifacts beside the project's own store if missing."""
    found = client.get_experiment_by_name(name)
    if found is None:
        kind = {"mlflow.experimentKind": "custom_model_development"}  # the UI opens its pages on training
        return client.create_experiment(name, artifact_location=_artifact_location(uri, root, name), tags=kind)
    if found.lifecycle_stage != "active":
        restore = f"mlflow experiments restore -x {found.experiment_id}"
        expected = f"an experiment that is not deleted (`{restore}` brings it back)"
        raise user_error("experiment_name", name, expected)
    return found.experiment_id


def _artifact_location(uri: str, root: Path, experiment_name: str) -> str | None:
    """Return where the experiment's artifacts go, as a URI: beside an SQLite file, else into the project's `mlruns`.

    None leaves the choice to a tracking server.
    """
    if urlsplit(uri).scheme in _SERVERS:
        return None
    beside = Path(uri.removeprefix("sqlite:///")).parent if uri.startswith("sqlite:") else root / "mlruns"
    folder = quote(experiment_name, safe=" ").lstrip(".") or "experiment"
    return (beside.resolve() / "artifacts" / folder).as_uri()


def _write_params(client: MlflowClient, run_id: str, params: Mapping[str, Any]) -> None:
    from mlflow.entities import Param

    rows = [Param(key, str(value)[:_PARAM]) for key, value in params.items()]
    for start in range(0, len(rows), _BATCH):
        client.log_batch(run_id, params=rows[start : start + _BATCH])


def _end(client: MlflowClient, run_id: str, status: str, why: str) -> None:
    client.set_tag(run_id, "frostline.reason", why)
    client.set_terminated(run_id, status)


def _first_line(error: BaseException) -> str:
    return credentials.scrubbed((str(error).strip().splitlines() or [type(error).__name__])[0])[:200]
