"""Read recorded runs, from a folder or from MLflow: their configs, results and environments."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from frostline.core import untrusted
from frostline.core.config_keys import flatten
from frostline.core.errors import UserError, user_error
from frostline.core.files import readable
from frostline.records import journal, run_folders
from frostline.records.layout import BEST, CONFIG, METRICS, PACKAGES, PROVENANCE, RESULT, RESULTS, RUN_ID
from frostline.records.result import TEST, VAL, Result
from frostline.sweeps import catalog
from frostline.sweeps.catalog import TypedName
from frostline.sweeps.recorded_configs import in_place
from frostline.sweeps.rerun import Comparable
from frostline.tracking import download, query

_LARGEST = 20_000_000_000  # bytes of a file to fetch: our weights have at most 2.5e9


@dataclass(frozen=True)
class Recorded:
    """A finished recorded run."""

    name: str
    identity: str
    """Its MLflow id, else its folder."""
    config: Mapping[str, Any]
    """The recorded values, read as data and not yet checked."""
    comparable: Comparable
    seeds: Mapping[str, Sequence[float]]
    """The accuracies of all seeds of its cell, by metric."""


def find(target: str, *, uri: str, folder: Path) -> list[Recorded]:
    """Return the finished runs that `target` stands for (see `catalog`): a run, or all of a sweep or an experiment.

    Files from MLflow at `uri` are fetched into `folder`. UserError if there is no such run, if none finished, or if a
    record is not plain data.
    """
    place = catalog.resolve(TypedName(target, "rerun"), uri)
    found = _in_folder(place.folder.resolve(), uri, folder) if place.folder else []
    found += [run for run_id in place.ids for run in _in_mlflow(uri, run_id, folder)]
    if not found:
        raise user_error("rerun", target, "a run that is FINISHED, or a sweep with one")
    return found


def _in_folder(here: Path, uri: str, fetched: Path) -> list[Recorded]:
    single = (here / CONFIG).exists() or (here / RESULT).exists()
    sweep = run_folders.sweep_of(here) or here
    results = {path: result for path in run_folders.of(sweep) if (result := _result(path)) is not None}
    if single and here not in results and (own := _result(here)) is not None:
        results[here] = own
    wanted = [here] if single else list(results)
    return [_of_result(path, results, uri, fetched) for path in wanted if path in results]


def _result(path: Path) -> Result | None:
    """Return the result of the run in a folder; None unless it finished."""
    if not (path / RESULT).is_file():
        return None
    told = untrusted.mapping(path / RESULT)
    try:
        result = Result.of(told)
    except ValueError as problem:
        raise UserError(f"{path / RESULT}: {problem}") from None
    return result if result.status == "FINISHED" else None


def _of_result(path: Path, results: Mapping[Path, Result], uri: str, fetched: Path) -> Recorded:
    """Return the run whose result is in `path`; for a run that its sweep skipped, its files are in another folder."""
    own = results[path]
    where = next((folder for folder in (path, Path(own.folder)) if readable(folder / CONFIG)), None)
    if where is None and RUN_ID.fullmatch(own.run_id or ""):
        return _of_mlflow(uri, own, results.values(), fetched)
    where = where or path
    identity = journal.run_id(where) or own.run_id or str(where)
    return _recorded(own, identity, where, comparable(where, own.metrics), results.values())


def _recorded(own: Result, identity: str, folder: Path, parts: Comparable, family: Iterable[Result]) -> Recorded:
    """Return the run with the result `own`, whose config is in `folder`; its `family` has the other seeds."""
    values = in_place(untrusted.mapping_of(folder / CONFIG), folder)
    return Recorded(own.name, identity, values, parts, _seeds(own, family))


def _in_mlflow(uri: str, run_id: str, folder: Path) -> list[Recorded]:
    results = _finished(uri, run_id)
    if [result.run_id for result in results] == [run_id]:
        family = _finished(uri, query.parent_sweep(uri, run_id)[0])
    else:
        results = family = _of_sweep(uri, run_id, folder) or results
    return [_of_mlflow(uri, result, family or results, folder) for result in results]


def _finished(uri: str, run_id: str) -> list[Result]:
    return [result for result in query.results(uri, run_id) if result.status == "FINISHED"]


def _of_sweep(uri: str, run_id: str, folder: Path) -> list[Result]:
    """Return the finished runs in a sweep's results, including skipped ones that belong to earlier sweeps."""
    if download.files(uri, run_id).get(RESULTS, _LARGEST) >= _LARGEST:
        return []
    told: Iterable[object] = untrusted.value(download.fetch_artifact(uri, run_id, RESULTS, folder / run_id)) or ()
    ids = [str(each.get("run_id")) for each in told if isinstance(each, dict) and each.get("status") == "FINISHED"]
    return [result for one in ids if RUN_ID.fullmatch(one) for result in _finished(uri, one)]


def _of_mlflow(uri: str, own: Result, family: Iterable[Result], folder: Path) -> Recorded:
    assert own.run_id is not None
    place = folder / own.run_id
    sizes = download.files(uri, own.run_id)
    for name in (CONFIG, METRICS, PROVENANCE, PACKAGES, BEST):
        if name in sizes:
            if sizes[name] > _LARGEST:
                raise user_error("rerun", own.run_id, f"files of at most {_LARGEST:,} bytes, but {name} is larger")
            download.fetch_artifact(uri, own.run_id, name, place)
    if CONFIG not in sizes:
        raise user_error("rerun", own.run_id, f"a run with the artifact {CONFIG}")
    epochs = {"MLflow": query.history(uri, own.run_id)}
    if METRICS in sizes:
        epochs[METRICS] = _epochs(place / METRICS)
    once = {key: value for key, value in own.metrics.items() if not key.startswith(("train/", "val/"))}
    parts = Comparable(epochs, once, _weights(place), environment(place))
    return _recorded(own, own.run_id, place, parts, family)


def _seeds(own: Result, family: Iterable[Result]) -> dict[str, list[float]]:
    """Return the accuracies, by metric, of the runs of a family that differ from `own` at most in the seed."""
    seeds = {"seed": None, "data.subset_seed": None}
    mates = [one for one in family if {**one.choices, **seeds} == {**own.choices, **seeds}]
    return {key: [mate.metrics[key] for mate in mates if key in mate.metrics] for key in (VAL, TEST)}


def _weights(folder: Path) -> str | None:
    from frostline.store import hashing  # imports torch

    return hashing.of_file(folder / BEST) if (folder / BEST).is_file() else None


def environment(folder: Path) -> dict[str, Any]:
    """Return the environment of the run in `folder`, as flat keys; without a record of it, a single key says so."""
    if not (path := folder / PROVENANCE).exists():
        return {"environment": "not on record"}
    packages = {"packages": untrusted.mapping(folder / PACKAGES)} if (folder / PACKAGES).exists() else {}
    return flatten({**untrusted.mapping(path), **packages})


def comparable(folder: Path, metrics: Mapping[str, float]) -> Comparable:
    """Return the comparable parts of the run in `folder`, given its final `metrics`."""
    return Comparable({METRICS: _epochs(folder / METRICS)}, metrics, _weights(folder), environment(folder))


def _epochs(path: Path) -> list[dict[str, Any]]:
    """Return the metrics of every epoch; UserError for a line without the number of its epoch."""
    lines = untrusted.lines(path)
    if not all(type(line.get("epoch")) is int for line in lines):
        raise UserError(f"{path}: expected the number of its epoch in every line")
    return lines
