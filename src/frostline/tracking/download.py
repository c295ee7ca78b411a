"""Downloads from MLflow into local folders: one artifact, a checkpoint, or a whole sweep."""

from __future__ import annotations

import ast
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from frostline.core import config_keys
from frostline.core.errors import UserError, user_error
from frostline.core.files import json_or_none
from frostline.records import layout, run_folders
from frostline.records.layout import RUN_ID
from frostline.records.result import TEST, VAL, Result, write_result
from frostline.records.sweep_facts import RunFacts, SweepFile, Tracker
from frostline.tracking import query
from frostline.tracking.server import Unreachable, connected, first_line

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import FileInfo


def sweep(uri: str, run_id: str, folder: Path) -> Path:
    """Create `folder`, fill it with the records and artifacts that MLflow has of the sweep `run_id`, and return it."""
    folder.mkdir(parents=True)
    with connected(uri) as client:
        recorded = [*map(_whole, query.results(uri, run_id))]
        results = _results(uri, run_id, folder) or _stated(recorded)
        ids = {result.name: result.run_id for result in recorded}
        experiment = client.get_experiment(client.get_run(run_id).info.experiment_id)
        tracker = Tracker(uri, experiment.name, str(folder), experiment.experiment_id, run_id)
        SweepFile(folder, tracker).add(
            RunFacts(result.name, result.choices, str(number), command=result.command)
            for number, result in enumerate(results)
        )
        for base in files(uri, run_id, layout.BASES):
            fetch_base(uri, run_id, PurePosixPath(base).name, folder)
        for own, result in zip(run_folders.of(folder), results, strict=True):
            own.mkdir()
            # the results lack run ids if the sweep ended while MLflow was slow
            if own_id := result.run_id or ids.get(result.name):
                client.download_artifacts(own_id, "", str(own))
            write_result(own, replace(result, run_id=own_id, folder=str(own)))
    return folder


def _results(uri: str, run_id: str, folder: Path) -> list[Result]:
    """Return the results that the sweep wrote at its end; empty if it did not get that far, or they are damaged."""
    if layout.RESULTS not in files(uri, run_id):
        return []
    told = json_or_none(fetch_artifact(uri, run_id, layout.RESULTS, folder))
    try:
        return [*map(Result.of, told)]
    except (TypeError, ValueError):
        return []


def _stated(results: Sequence[Result]) -> list[Result]:
    """Return the results with the choices that a sweep states, as values: short names, and other keys that differ.

    MLflow has all keys of a config as text, also those that the choice of a group determines, as `model` `model.name`.
    """
    settings = [{key: _value(text) for key, text in result.choices.items()} for result in results]
    from_scratch = [key for key in ("model.weights",) if any(each.get(key) == "null" for each in settings)]
    short = (*config_keys.SHORT, *from_scratch)  # seeds of a solver differ only from scratch
    names = [{key: each[key] for key in short if key in each} for each in settings]
    keys = [key for key in config_keys.differing(settings) if not config_keys.is_implied(key, names, settings)]
    more = [{key: each[key] for key in keys if key in each} for each in settings]
    return [replace(result, choices={**one, **rest}) for result, one, rest in zip(results, names, more, strict=True)]


def _value(text: str) -> Any:
    """Return the value that `str` turned into `text`; the text if there is none."""
    with suppress(ValueError, SyntaxError, MemoryError, RecursionError):
        return ast.literal_eval(text)
    return text


def result(uri: str, sweep: str, run_id: str, scratch: Path) -> Result:
    """Return the result of a run of the sweep with the id `sweep`, without a folder that exists.

    Without a file of the sweep's results, as of one that was killed, it has no numbers of images.
    """
    (recorded,) = map(_whole, query.results(uri, run_id))
    found = (one for one in _results(uri, sweep, scratch) if one.name == recorded.name)
    return replace(next(found, recorded), run_id=run_id, folder=str(scratch / run_id))


def _whole(result: Result) -> Result:
    """Return the result of a run from MLflow; one that finished without a required metric counts as KILLED."""
    gone = [name for name in (VAL, TEST) if name not in result.metrics]
    if result.status != "FINISHED" or not gone:
        return result
    return replace(result, status="KILLED", reason=f"it finished, but MLflow has no valid {gone[0]}")


def files(uri: str, run_id: str, folder: str | None = None) -> dict[str, int]:
    """Return the names of the files in `folder` of a run's artifacts, or at their top, and their sizes in bytes."""
    with connected(uri) as client:
        return {file.path: file.file_size or 0 for file in _listed(client, run_id, folder) if not file.is_dir}


def _listed(client: MlflowClient, run_id: str, folder: str | None) -> list[FileInfo]:
    """Return what is in `folder` of a run's artifacts.

    Not by `client.list_artifacts`, which asks for logged models, too: servers older than MLflow 3 have none.
    """
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    kept = client.get_run(run_id).info.artifact_uri
    return get_artifact_repository(kept, tracking_uri=client.tracking_uri).list_artifacts(folder)


def fetch_artifact(uri: str, run_id: str, name: str, folder: Path) -> Path:
    """Download the run's artifact `name` (a relative path with `/`) into `folder`, and return its local path.

    Raises UserError for an unknown run or artifact, and for a name that leads out of the folder.
    """
    path, wanted = PurePosixPath(name), f"runs:/{run_id}/{name}"
    if not RUN_ID.fullmatch(run_id) or path.is_absolute() or ".." in path.parts or "\\" in name:
        raise user_error("model.weights", wanted, "runs:/<run id of 32 hex digits>")
    try:
        with connected(uri) as client:
            local = Path(client.download_artifacts(run_id, name, str(folder))).resolve()
    except (Unreachable, UserError) as error:
        where = f"a run with the artifact {name} in {uri} ({first_line(error)})"
        raise user_error("model.weights", wanted, where) from None
    if not local.is_file() or not local.is_relative_to(folder.resolve()):
        raise user_error("model.weights", wanted, "a file among the run's artifacts")
    return local


def fetch_base(uri: str, sweep: str, name: str, folder: Path) -> None:
    """Download the base weights `name`, which the runs of a `sweep` share, to their place in `folder`."""
    _fetch_to_its_place(uri, sweep, f"{layout.BASES}/{name}", folder)


def fetch_files(uri: str, run_id: str, folder: Path, *, but: Collection[str]) -> None:
    """Download the files of a run and its adapters into `folder`, except the names `but`, up to the first error."""
    with suppress(Unreachable, UserError, OSError):
        for name in [*files(uri, run_id), *files(uri, run_id, layout.ADAPTER)]:
            if name not in but:
                _fetch_to_its_place(uri, run_id, name, folder)


def _fetch_to_its_place(uri: str, run_id: str, name: str, folder: Path) -> None:
    """Download the artifact `name` to that relative path in `folder`; MLflow may or may not create the subfolder."""
    fetched = fetch_artifact(uri, run_id, name, folder)
    (folder / name).parent.mkdir(exist_ok=True)
    fetched.replace(folder / name)


def fetch_checkpoint(uri: str, run_id: str, into: Path) -> bool:
    """Download the run's checkpoint `into` a folder; return whether there was one and it arrived."""
    try:
        with connected(uri) as client:
            if not _listed(client, run_id, layout.CHECKPOINT):
                return False
            into.mkdir(parents=True, exist_ok=True)
            found = Path(client.download_artifacts(run_id, layout.CHECKPOINT, str(into)))
            return found.resolve().is_relative_to(into.resolve())
    except (Unreachable, UserError, OSError):
        return False
