"""Sweeps by whatever names them: a folder, MLflow's id of a run, or the name of an experiment."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from frostline.core.config import user_error
from frostline.records import layout, run_folders, sweep_record
from frostline.records.layout import RUN_ID, SWEEP
from frostline.records.sweep_record import Sweep
from frostline.tracking import query, server

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run


def find_all(names: Sequence[str], *, uri: str, root: Path, scratch: Path) -> list[Sweep]:
    """Return the sweeps that `names` name, each once."""
    found = [sweep for name in names for sweep in find(name, uri=uri, root=root, scratch=scratch)]
    return list({sweep.folder: sweep for sweep in found}.values())


def find(name: str, *, uri: str, root: Path, scratch: Path) -> Iterator[Sweep]:
    """Yield the sweeps called `name`; what is no folder is looked for in MLflow's store at `uri`.

    A sweep whose folder is not here is fetched into `scratch` as far as MLflow has it. Raises UserError for a name
    that is nothing.
    """
    folder = Path(name).expanduser()
    if folder.is_dir():
        yield sweep_record.read(folder.absolute())
        return
    if "/" in name:
        near = [str(path.parent) for path in folder.parent.glob(f"*/{SWEEP}")]
        raise user_error("sweep", name, "a folder, an MLflow run id, or the name of an experiment", near)
    try:
        client = server.client_of(uri)
    except server.Unreachable as problem:
        raise user_error("sweep", name, f"a folder, or what is in a store that answers ({problem})") from None
    with server.problems(uri):
        runs = [_parent(client, uri, name)] if RUN_ID.fullmatch(name) else _of_experiment(client, uri, name)
    for run in runs:
        told = root / run.data.tags.get(layout.SWEEP_TAG, ".")
        if not (told / SWEEP).is_file():
            with server.problems(uri):
                told = _fetch(client, uri, run, scratch / run.info.run_id)
        yield sweep_record.read(told)


def _parent(client: MlflowClient, uri: str, run_id: str) -> Run:
    """Return the sweep's run of any run of it."""
    from mlflow.exceptions import MlflowException

    try:
        run = client.get_run(run_id)
        parent = run.data.tags.get("mlflow.parentRunId")
        return client.get_run(parent) if parent else run
    except MlflowException:
        raise user_error("sweep", run_id, f"a run of {uri} (another store: set MLFLOW_TRACKING_URI)") from None


def _of_experiment(client: MlflowClient, uri: str, name: str) -> list[Run]:
    """Return the sweeps of an experiment, oldest first."""
    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        near = [found.name for found in client.search_experiments()]
        raise user_error("sweep", name, f"a folder, a run id, or an experiment of {uri}", near)
    order = ["attributes.start_time ASC"]
    found = client.search_runs([experiment.experiment_id], max_results=50_000, order_by=order)
    runs = [run for run in found if "mlflow.parentRunId" not in run.data.tags and layout.SWEEP_TAG in run.data.tags]
    if not runs:
        raise user_error("sweep", name, "an experiment with sweeps in it")
    return runs


def _fetch(client: MlflowClient, uri: str, run: Run, folder: Path) -> Path:
    """Return a folder like that of the sweep, filled with what MLflow has of it."""
    run_id = run.info.run_id
    folder.mkdir(parents=True)
    results = _recorded(client, run_id, folder) or [asdict(result) for result in query.results(uri, run_id)]
    facts = [
        {"name": result["name"], "choices": result["choices"], "folder": str(number)}
        for number, result in enumerate(results)
    ]
    tracker = {"uri": uri, "experiment_id": run.info.experiment_id, "sweep_run_id": run_id}
    (folder / SWEEP).write_text(json.dumps({"tracker": tracker, "runs": facts}), encoding="utf-8")
    for own, result in zip(run_folders.of(folder), results, strict=True):
        own.mkdir()
        if result["run_id"]:
            client.download_artifacts(result["run_id"], "", str(own))
        text = json.dumps({**result, "folder": str(own)})
        (own / layout.RESULT).write_text(text, encoding="utf-8")
    return folder


def _recorded(client: MlflowClient, run_id: str, folder: Path) -> list[Mapping[str, Any]]:
    """Return the results that the sweep wrote at its end; none where it did not come to that."""
    if not any(item.path == layout.RESULTS for item in client.list_artifacts(run_id)):
        return []
    found: list[Mapping[str, Any]] = json.loads(
        Path(client.download_artifacts(run_id, layout.RESULTS, str(folder))).read_text(encoding="utf-8")
    )
    return found
