"""Forecast of the jobs that a sweep will submit to a cluster: their number, resources and expected time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from frostline.core import files, project
from frostline.core.config import ClusterConfig
from frostline.records import journal, layout
from frostline.records.result import SECONDS, Result
from frostline.report.tables import duration
from frostline.sweeps.compose import PlannedRun, in_order
from frostline.sweeps.lockstep_groups import batches

_SWEEPS = 50  # number of latest sweeps that are read
_SHOWN = 20  # jobs
_ASKED = {  # by parameter of submitit's launcher
    "partition": "partition {}",
    "qos": "qos {}",
    "account": "account {}",
    "nodes": "{} node(s)",
    "gpus_per_node": "{} GPU(s)",
    "cpus_per_task": "{} CPU core(s)",
    "mem_gb": "{} GB",
}


def lines(planned: Sequence[PlannedRun], how: ClusterConfig, params: Mapping[str, Any], folder: Path) -> list[str]:
    """Return lines about the jobs that the sweep in `folder` would queue, with times if such runs were trained before.

    `params` are those of submitit's launcher.
    """
    groups = batches({number: planned[number].config for number in in_order(planned)}, how.pack)
    asked = [text.format(params[key]) for key, text in _ASKED.items() if params.get(key) is not None]
    first = "a job that checks data and weights, then " if how.check == "job" else ""
    array = "1 job" if len(groups) == 1 else f"an array of {len(groups)} jobs, at most {how.at_once} at a time"
    limit = duration(60 * params["timeout_min"])
    told = [f"cluster={how.name}: {first}{array}; each asks for {', '.join(asked)}, at most {limit}"]
    before = seconds_per_epoch([folder.parent, *project.multirun().glob("*")])
    expected = [_seconds([planned[number] for number in group], before) for group in groups]
    for number, (group, seconds) in enumerate(zip(groups[:_SHOWN], expected, strict=False)):
        about = "" if seconds is None else f": about {duration(seconds)} of training, estimated from earlier runs"
        told.append(f"  job {number}: {', '.join(planned[run].name for run in group)}{about}")
    if len(groups) > _SHOWN:
        told.append(f"  and {len(groups) - _SHOWN} more")
    return told


def seconds_per_epoch(tops: Sequence[Path]) -> dict[tuple[str, ...], float]:
    """Return the seconds per epoch of the latest run of each model, freeze mode and data, of sweeps in the `tops`."""
    found: dict[tuple[str, ...], float] = {}
    results = {file for top in tops for file in top.glob(f"*/{layout.RESULTS}")}
    for file in sorted(results, key=lambda path: path.stat().st_mtime)[-_SWEEPS:]:
        try:
            told = [Result.of(values) for values in files.read_json(file)]
        except (OSError, ValueError, TypeError):
            continue
        for each in told:
            epochs = len(journal.epochs(Path(each.folder))) if SECONDS in each.metrics else 0
            if epochs:
                found[_kind(each.choices)] = each.metrics[SECONDS] / epochs
    return found


def _kind(choices: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(str(choices.get(name)) for name in ("model", "freeze_mode", "data"))


def _seconds(runs: Sequence[PlannedRun], before: Mapping[tuple[str, ...], float]) -> float | None:
    """Return the seconds of training of a job; None if one of its runs has no similar earlier run."""
    known = [before.get(_kind(run.choices)) for run in runs]
    if any(each is None for each in known):
        return None
    return sum(each * run.config.epochs for run, each in zip(runs, known, strict=True) if each is not None)
