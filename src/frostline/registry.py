"""MLflow's runs seen from outside: what a run id names."""

from __future__ import annotations

from typing import TYPE_CHECKING

from frostline.config import user_error
from frostline.results import Result
from frostline.server import client_of

if TYPE_CHECKING:
    from mlflow.entities import Run


def results(uri: str, run_id: str) -> list[Result]:
    """Return the run `run_id` of the store at `uri`, or where that is a sweep all runs of it, in their order.

    Their choices are all their params. UserError where the store has no such run.
    """
    from mlflow.exceptions import MlflowException

    client = client_of(uri)
    try:
        run = client.get_run(run_id)
    except MlflowException:
        expected = f"a run of {uri} (another store: set MLFLOW_TRACKING_URI)"
        raise user_error("run", run_id, expected) from None
    of_sweep = f"tags.mlflow.parentRunId = '{run_id}'"
    order = ["attributes.start_time ASC"]
    children = client.search_runs([run.info.experiment_id], of_sweep, max_results=50_000, order_by=order)
    return [_result(number, each) for number, each in enumerate(children or [run])]


def _result(number: int, run: Run) -> Result:
    why = run.data.tags.get("frostline.reason")
    params, metrics = dict(run.data.params), dict(run.data.metrics)
    return Result(number, run.info.run_name, "", run.info.run_id, run.info.status, why, params, metrics)
