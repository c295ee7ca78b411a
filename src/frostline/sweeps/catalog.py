"""Which run is meant: what `model.weights` names, found wherever its record is."""

from __future__ import annotations

from pathlib import Path

from frostline.core import environment
from frostline.core.config import Config
from frostline.records import layout
from frostline.tracking import query, session

_RUNS = "runs:/"


def fetch_weights(config: Config, folder: Path) -> Path:
    """Return where in `folder` the weights of the run were put that `model.weights` names."""
    uri = session.tracking_uri(config.tracking.uri, environment.project_root())
    run_id = str(config.model.weights).removeprefix(_RUNS).strip("/")
    return query.fetch_artifact(uri, run_id, layout.BEST, folder)
