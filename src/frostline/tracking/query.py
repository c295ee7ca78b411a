"""Queries to MLflow: runs and sweeps by id or name, their results and metrics per epoch; also ends a run."""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from typing import TYPE_CHECKING, Any

from frostline.core.errors import UserError, user_error
from frostline.records import layout
from frostline.records.layout import REASON_TAG
from frostline.records.recording import reason_tags
from frostline.records.result import Result, is_possible
from frostline.tracking import tracking_uri
from frostline.tracking.server import Unreachable, connected, first_line

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

_BEGINNING = re.compile(r"[0-9a-f]{4,31}")  # the beginning of an id; fewer digits are more likely a name
_ONCE = ("best/", "test/", "cost/", "search/")  # prefixes of metrics that a run logs once
_FEW = 10  # up to this many digests are searched one by one


def parent_sweep(uri: str, run_id: str) -> tuple[str, str]:
    """Return MLflow's id of the sweep that a run belongs to, or is, and the sweep's folder relative to the project.

    Raises UserError where the store has no such run or does not answer.
    """
    with open_client(uri) as client:
        run = run_of(client, uri, run_id)
        parent = run.data.tags.get(layout.PARENT_TAG, "")
        run = run_of(client, uri, parent) if layout.RUN_ID.fullmatch(parent) else run  # tags may have been edited
    return run.info.run_id, run.data.tags.get(layout.SWEEP_TAG, ".")


def sweeps_of(uri: str, experiment_name: str) -> list[str] | None:
    """Return MLflow's ids of the sweeps of an experiment, oldest first; None if there is no such experiment."""
    with open_client(uri) as client:
        experiment = client.get_experiment_by_name(experiment_name)
        found = [] if experiment is None else _search(client, [experiment.experiment_id], "")
        sweeps = [run.info.run_id for run in found if _is_sweep(run)]
    return None if experiment is None else sweeps[::-1]


def called(uri: str, name: str) -> list[str]:
    """Return MLflow's ids of the sweeps named `name`, or if there are none, of runs and sweeps whose id begins so."""
    with open_client(uri) as client:
        experiments = [experiment.experiment_id for experiment in client.search_experiments()]
        quoted = name.replace("'", "''")
        found = _search(client, experiments, f"attributes.run_name = '{quoted}'")
        named = [run.info.run_id for run in found if _is_sweep(run)]
        if named or not _BEGINNING.fullmatch(name):
            return named
        return [run.info.run_id for run in _search(client, experiments, f"attributes.run_id LIKE '{name}%'")]


def experiments(uri: str) -> list[str]:
    """Return the names of the experiments of a store."""
    with open_client(uri) as client:
        return [experiment.name for experiment in client.search_experiments()]


def _is_sweep(run: Run) -> bool:
    return layout.PARENT_TAG not in run.data.tags and layout.SWEEP_TAG in run.data.tags


def history(uri: str, run_id: str) -> list[dict[str, float]]:
    """Return the metrics of a run per epoch, a dict with `epoch` for each; points that were logged twice come twice."""
    found: list[dict[str, float]] = []
    with connected(uri) as client:
        points = [p for key in client.get_run(run_id).data.metrics for p in client.get_metric_history(run_id, key)]
    for point in points:
        if point.step >= 1:  # others are written once per run
            line = next((line for line in found if line["epoch"] == point.step and point.key not in line), None)
            if line is None:
                found.append(line := {"epoch": point.step})
            line[point.key] = point.value
    return sorted(found, key=lambda line: line["epoch"])


def running(uri: str, experiment_name: str) -> list[tuple[str, dict[str, str]]]:
    """Return the id and tags of every run that is RUNNING in MLflow; raises `server.Unreachable`."""
    with connected(uri) as client:
        experiment = client.get_experiment_by_name(experiment_name)
        if experiment is None:
            return []
        found = _search(client, [experiment.experiment_id], "attributes.status = 'RUNNING'")
        return [(run.info.run_id, dict(run.data.tags)) for run in found]


def is_wanted(tags: Mapping[str, str], digests: Collection[str] | None) -> bool:
    """Return whether a run with these `tags` has one of the `digests`; if `digests` is None, whether it has any."""
    digest = tags.get(layout.DIGEST_TAG)
    return digest is not None and (digests is None or digest in digests)


def runs(uri: str, experiment_id: str, digests: Collection[str] | None) -> Iterator[dict[str, Any]]:
    """Yield the facts of runs with one of the `digests`, or with any digest if `digests` is None, newest first.

    The facts are `run_id`, `status`, `tags`, `metrics`, `images` and `params`. Raises `server.Unreachable`.
    """
    few = digests is not None and len(digests) <= _FEW  # for more digests, all runs are fetched in one search
    wanted = [f"tags.`{layout.DIGEST_TAG}` = '{digest}'" for digest in digests or ()] if few else [""]
    with connected(uri) as client:
        for chosen in wanted:
            found = _search(client, [experiment_id], chosen)
            yield from (_facts(run) for run in found if is_wanted(run.data.tags, digests))


def has_finished(uri: str, run_ids: Collection[str]) -> bool:
    """Return whether a local SQLite store has all these runs, finished and not deleted, without loading MLflow.

    False for other stores, and where the file cannot be read.
    """
    file = tracking_uri.file_of(uri)
    if file is None or not file.is_file():
        return False
    wanted = "select run_uuid from runs where lifecycle_stage = 'active' and status = 'FINISHED'"
    try:
        with closing(sqlite3.connect(f"{file.as_uri()}?mode=ro", uri=True, timeout=5.0)) as database:
            return {*run_ids} <= {str(run_id) for (run_id,) in database.execute(wanted)}
    except sqlite3.Error:
        return False


def end(uri: str, run_id: str, status: str, why: str) -> None:
    """End a run in MLflow whose folder, and so its journal, is not available; raises `server.Unreachable`."""
    with connected(uri) as client:
        for key, value in reason_tags(status, why, None).items():
            client.set_tag(run_id, key, value)
        client.set_terminated(run_id, status)


def _search(client: MlflowClient, experiments: Sequence[str], chosen: str) -> Iterator[Any]:
    """Yield the runs of `experiments` that match MLflow's filter `chosen`, newest first, from pages of a thousand."""
    token = None
    while True:
        page = client.search_runs(
            list(experiments), chosen, max_results=1000, page_token=token, order_by=["start_time DESC"]
        )
        yield from page
        token = page.token
        if not token:
            return


def _facts(run: Any) -> dict[str, Any]:
    images: dict[str, int] = {}
    for given in run.inputs.dataset_inputs if run.inputs else ():
        with suppress(ValueError, KeyError, TypeError, OverflowError):
            images[given.dataset.name.rpartition(" ")[2]] = max(0, int(json.loads(given.dataset.profile)["images"]))
    once = {key: value for key, value in _metrics(run).items() if key.startswith(_ONCE)}
    tags = dict(run.data.tags)
    facts = {"run_id": run.info.run_id, "status": run.info.status, "tags": tags, "metrics": once, "images": images}
    return {**facts, "params": dict(run.data.params)}


def results(uri: str, run_id: str) -> list[Result]:
    """Return the result of the run `run_id` of the store at `uri`, or if it is a sweep those of all its runs, in order.

    All params of a run are its choices. Raises UserError where the store has no such run or does not answer.
    """
    with open_client(uri) as client:
        run = run_of(client, uri, run_id)
        of_sweep = f"tags.{layout.PARENT_TAG} = '{run_id}'"
        children = [*_search(client, [run.info.experiment_id], of_sweep)][::-1]
    return [_result_of(number, each) for number, each in enumerate(children or [run])]


@contextmanager
def open_client(uri: str) -> Iterator[MlflowClient]:
    """Yield the client of an existing store; raises UserError where there is none, or it does not answer."""
    if (file := tracking_uri.file_of(uri)) is not None and not file.is_file():
        raise UserError(f"{uri}: expected a store of MLflow, and there is none (for another, set MLFLOW_TRACKING_URI)")
    try:
        with connected(uri) as client:
            yield client
    except Unreachable as error:
        raise user_error("tracking.uri", uri, f"a store of MLflow that answers ({first_line(error)})") from error


def run_of(client: MlflowClient, uri: str, run_id: str) -> Run:
    """Return a run of the store at `uri`; raises UserError where there is none."""
    if (run := known(client, run_id)) is None:
        raise user_error("run", run_id, f"a run of {uri} (for another store, set MLFLOW_TRACKING_URI)")
    return run


def known(client: MlflowClient, run_id: str) -> Run | None:
    """Return a run, even a deleted one; None where MLflow has no such run."""
    from mlflow.exceptions import MlflowException

    try:
        return named(client.get_run(run_id))
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return None
        raise


def named(run: Run) -> Run:
    """Return the run; raises ValueError if it has no id, as in the empty answer of a broken proxy."""
    if not run.info.run_id:
        raise ValueError("MLflow's answer names no run")
    return run


def _result_of(number: int, run: Run) -> Result:
    why = run.data.tags.get(REASON_TAG) or None
    name, params = run.info.run_name, {key: "null" if text == "None" else text for key, text in run.data.params.items()}
    return Result(number, name, "", run.info.run_id, run.info.status, why, params, _metrics(run))


def _metrics(run: Run) -> dict[str, float]:
    """Return the metrics of a run; impossible values, which another program must have written, are left out."""
    return {key: value for key, value in run.data.metrics.items() if is_possible(key, value)}
