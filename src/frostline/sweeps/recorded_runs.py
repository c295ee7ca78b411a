"""Read recorded runs, from a folder or from MLflow: their configs, results and environments."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, is_dataclass
from pathlib import Path
from typing import Any, get_type_hints

import hydra
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from frostline.core import untrusted
from frostline.core.config import Config
from frostline.core.config_keys import flatten, is_semantic
from frostline.core.errors import UserError, one_line, unknown_key, user_error
from frostline.core.files import expanded, readable
from frostline.core.validation import parse
from frostline.records import journal, run_folders
from frostline.records.layout import BEST, CONFIG, METRICS, PACKAGES, PROVENANCE, RESULT, RESULTS, RUN_ID
from frostline.records.result import TEST, VAL, Result
from frostline.store import hashing
from frostline.sweeps import catalog
from frostline.sweeps.catalog import TypedName
from frostline.sweeps.compose import composing
from frostline.sweeps.rerun import Comparable
from frostline.tracking import download, query

_FREE = (
    *("experiment_name", "device", "devices", "fsdp", "checkpoint", "store", "tracking"),
    *("data.root", "data.download"),
)
"""Keys that a rerun may override: where it runs, reads and writes.

It starts from scratch, trains each run alone in this process, and saves the same weights, whose bytes are compared.
"""
_FROM_RECORD = ("device", "devices", "fsdp", "data.root", "data.download", "save_weights")
_PLACES = ("data.root", "data.options.splits", "model.weights")
"""Keys whose value may be a path relative to the working directory."""
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


def configs_of(records: Iterable[Mapping[str, Any]], overrides: Sequence[str]) -> list[Config]:
    """Return the checked configs of recorded values, to be run on this machine with `overrides`.

    Settings that determine the metrics come from the record, as do the devices and `data.root`; paths for output and
    storage do not. UserError for values that are not plain or not in the schema, and for an override that would change
    the metrics. Values from the environment must be given again.
    """
    given = dict(override.partition("=")[::2] for override in overrides)
    for key, value in given.items():
        if not any(key == name or key.startswith(f"{name}.") for name in _FREE):
            raise user_error(key, value, f"nothing but {', '.join(_FREE)}: a rerun repeats the record")
    with composing():
        composed = hydra.compose("config", overrides=["resume=false", *overrides])
    return [_on_record(values, deepcopy(composed), given) for values in records]


def _on_record(values: Mapping[str, Any], config: DictConfig, given: Collection[str]) -> Config:
    """Return the checked `config` with the recorded values in it, except for the keys that are `given`."""
    told: dict[str, Any] = {}
    try:
        for key, value in _settings(values):
            if key not in given and (key in _FROM_RECORD or is_semantic(key)):
                untrusted.require_plain(value, "the recorded config", f".{key}")
                if isinstance(value, Mapping) and OmegaConf.get_type(OmegaConf.select(config, key)) is dict:
                    # a recorded mapping replaces the default, and is not merged with it
                    OmegaConf.update(config, key, {}, merge=False)
                    OmegaConf.set_struct(OmegaConf.select(config, key), False)
                section, _, name = key.rpartition(".")
                (told.setdefault(section, {}) if section else told)[name] = value
        config.merge_with(told)  # in one call, since each merge takes milliseconds
        return parse(OmegaConf.to_container(config, throw_on_missing=True))  # type: ignore[arg-type]
    except (OmegaConfBaseException, TypeError, ValueError, AttributeError) as problem:
        if isinstance(problem, UserError):
            raise
        raise UserError(f"the recorded config: {one_line(problem)}") from None


def _settings(values: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield recorded keys, dotted inside a section, and their values; UserError for a key that cannot be one."""
    sections = [key for key, kind in get_type_hints(Config).items() if is_dataclass(kind)]
    for key, value in values.items():
        inside = value if key in sections and isinstance(value, Mapping) else {"": value}
        for name, inner in inside.items():
            if not (f"{key}{name}").isidentifier():
                raise unknown_key(f"{key}.{name}", inner)
            yield (f"{key}.{name}" if name else key), inner


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
    values = _in_place(untrusted.mapping_of(folder / CONFIG), folder)
    return Recorded(own.name, identity, values, parts, _seeds(own, family))


def _in_place(values: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Return the values of a record with relative paths made absolute, by the directory where they were typed.

    Paths that no longer exist, and values that are no path, such as names of weights, stay. `folder` has the record.
    """
    typed_in = untrusted.mapping(folder / PROVENANCE).get("directory") if (folder / PROVENANCE).exists() else None
    if isinstance(typed_in, str):
        for key in _PLACES:
            values = _placed(values, key.split("."), typed_in)
    return values


def _placed(value: Any, names: Sequence[str], typed_in: str) -> Any:
    """Return `value` with the path at the nested keys `names` made absolute by the directory `typed_in`."""
    if names:
        there = isinstance(value, Mapping) and names[0] in value
        return {**value, names[0]: _placed(value[names[0]], names[1:], typed_in)} if there else value
    if not isinstance(value, str) or "://" in value or expanded(value).is_absolute():
        return value
    place = os.path.join(typed_in, value)  # noqa: PTH118 - a pattern of shards is no path
    known = re.split(r"[*?{\[]", place)[0]
    found = Path(place if known == place else os.path.dirname(known))  # noqa: PTH120
    return place if found.is_dir() or (found.suffix and found.is_file()) else value


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
    mates = [one for one in family if {**one.choices, "seed": None} == {**own.choices, "seed": None}]
    return {key: [mate.metrics[key] for mate in mates if key in mate.metrics] for key in (VAL, TEST)}


def _weights(folder: Path) -> str | None:
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
