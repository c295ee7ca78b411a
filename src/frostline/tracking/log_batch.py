"""Batched writes of params, metrics, tags and data sets to MLflow, within its limits and in as few calls as possible.

Every call costs a database several commits, whatever its size. A short run, which is over when the mirror first sees
it, takes four calls and its files.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from frostline.tracking import server

if TYPE_CHECKING:
    from mlflow import MlflowClient

_METRICS = 1000  # per call: MAX_METRICS_PER_BATCH of mlflow.utils.validation
_ENTITIES = 1000  # of all kinds per call: MAX_ENTITIES_PER_BATCH
_BATCH = 100  # params or tags per call: MAX_PARAMS_TAGS_PER_BATCH
_PARAM = 6000  # characters: MAX_PARAM_VAL_LENGTH
_TAG = 8000  # characters: MAX_TAG_VAL_LENGTH
_DIGEST = 36  # characters: MAX_DATASET_DIGEST_SIZE
_CONTEXTS = {"train": "training", "val": "validation", "test": "testing"}


def do_all(steps: Iterable[Callable[[], object]]) -> None:
    """Carry out every step; raise the first refusal by MLflow, of a too large file for example, after all steps.

    So a run that ended has also ended in MLflow, even if a part of its record was refused. Other errors are raised at
    once.
    """
    refused = None
    for step in steps:
        try:
            step()
        except Exception as error:
            if not server.refused(error):
                raise
            refused = refused or error
    if refused is not None:
        raise refused


def missing(client: MlflowClient, run_id: str, metrics: Sequence[Any]) -> list[Any]:
    """Return the metrics that the run does not have yet with this value at this step."""
    there = {
        (key, point.step, repr(point.value))
        for key in dict.fromkeys(metric.key for metric in metrics)
        for point in client.get_metric_history(run_id, key)
    }
    once: dict[tuple[str, int, str], Any] = {}
    for metric in metrics:
        once.setdefault((metric.key, metric.step, repr(metric.value)), metric)
    return [metric for point, metric in once.items() if point not in there]


def write_values(
    client: MlflowClient, run_id: str, params: dict[str, Any], metrics: Sequence[Any], tags: Sequence[Any]
) -> None:
    """Write all in one call; if MLflow refuses that, write each kind separately, so that it gets all it accepts."""
    from mlflow.entities import Param

    rows = [Param(key, str(value)[:_PARAM]) for key, value in params.items()]
    if len(rows) <= _BATCH and len(tags) <= _BATCH and len(rows) + len(tags) + len(metrics) <= _ENTITIES:
        try:
            client.log_batch(run_id, params=rows, metrics=metrics, tags=tags)
        except Exception as error:
            if not server.refused(error):
                raise
            metrics = missing(client, run_id, metrics)
        else:
            return
    do_all(
        [
            partial(_write_params, client, run_id, rows),
            *(partial(client.log_batch, run_id, tags=some) for some in _parts(tags, _BATCH)),
            *(partial(client.log_batch, run_id, metrics=points) for points in _parts(metrics, _METRICS)),
        ]
    )


def _write_params(client: MlflowClient, run_id: str, params: Sequence[Any]) -> None:
    """Write the params; skip one that exists with another value, or whose name MLflow does not allow."""
    from mlflow.exceptions import MlflowException

    for rows in _parts(params, _BATCH):
        try:
            client.log_batch(run_id, params=rows)
        except MlflowException as error:
            if error.error_code != "INVALID_PARAMETER_VALUE":
                raise
            if len(rows) > 1:
                for row in rows:
                    _write_params(client, run_id, [row])


def write_dataset(client: MlflowClient, run_id: str, entry: dict[str, Any]) -> None:
    """Write the data set of the run, as one dataset input per split."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    name, digest, source = entry["name"], entry["digest"], json.dumps({"source": entry["source"]})
    inputs = []
    for split, count in entry["images"].items():
        profile = json.dumps({"images": count, "fingerprint": digest})
        data = Dataset(f"{name} {split}", digest[:_DIGEST], "code", source, profile=profile)
        inputs.append(DatasetInput(data, [InputTag("mlflow.data.context", _CONTEXTS[split])]))
    client.log_inputs(run_id, datasets=inputs)


def limited(tags: dict[str, str]) -> dict[str, str]:
    """Return the tags with values cut to MLflow's length limit."""
    return {key: str(value)[:_TAG] for key, value in tags.items()}


def _parts(rows: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    for start in range(0, len(rows), size):
        yield rows[start : start + size]
