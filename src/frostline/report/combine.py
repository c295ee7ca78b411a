"""What sweeps left in their folders, read again: finished, failed, running and not yet begun runs alike."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from frostline.core import files, untrusted
from frostline.core.config_keys import flatten, is_read, is_semantic
from frostline.core.errors import UserError
from frostline.records import layout
from frostline.records.result import Result
from frostline.records.sweep_record import Sweep
from frostline.report.cells import FOLD, FOLDS

_GROUPS = ("model", "freeze_mode", "optimizer", "schedule", "augment", "data")


def together(sweeps: Sequence[Sweep]) -> list[Result]:
    """Return the runs of several sweeps as if they were one: what differs between sweeps becomes a choice too.

    A run that was done twice, seed and all, counts once: the last time that it finished.
    """
    if len(sweeps) == 1:
        return list(sweeps[0].results)
    results = [result for sweep in sweeps for result in sweep.results]
    configs = [_config(Path(result.folder)) for result in results]
    keys = [key for key in _differing(configs) if not _told_by_name(key, results, configs)]
    known = {name for result in results for name in result.choices}
    keys = list(dict.fromkeys([*keys, *sorted(known - {"seed"})]))
    full = [
        replace(result, choices={**_choices(config, keys), **result.choices})
        for result, config in zip(results, configs, strict=True)
    ]
    origins = [number for number, sweep in enumerate(sweeps) for _ in sweep.results]
    last: dict[str, Result] = {}
    for result in sorted(_by_data(full, origins), key=lambda result: result.status == "FINISHED"):
        last[repr(sorted(result.choices.items()))] = result
    return [replace(result, job=number) for number, result in enumerate(last.values())]


def _choices(config: Mapping[str, Any], keys: Iterable[str]) -> dict[str, Any]:
    """Return those of the keys that a run's config has, as a sweep has them; a run without folds is none of them."""
    found = {key: "null" if config[key] is None else config[key] for key in keys if key in config}
    if config.get(FOLDS) is None:
        found.pop(FOLD, None)
    return found


def _by_data(results: Sequence[Result], origins: Sequence[int]) -> Sequence[Result]:
    """Return the runs, told apart by `data.fingerprint` too where the same settings stood for other pictures.

    A folder's pictures may change between sweeps; within one of them, numbered by `origins`, they do not. Folds of a
    sweep are of the same pictures, divided otherwise, and have the fingerprint of the first of them.
    """
    prints: dict[tuple[int, str], dict[str, str]] = {}
    found: dict[tuple[str, str], set[str]] = {}
    places = [(origin, _data_settings(result)) for origin, result in zip(origins, results, strict=True)]
    for place, result in zip(places, results, strict=True):
        if fingerprint := _fingerprint(Path(result.folder)):
            fold = repr(result.choices.get(FOLD))
            prints.setdefault(place, {})[fold] = fingerprint[:8]
            found.setdefault((place[1], fold), set()).add(fingerprint)
    changed = {settings for (settings, _), several in found.items() if len(several) > 1}
    told = {place: own[min(own)] for place, own in prints.items()}
    return [
        replace(result, choices={**result.choices, "data.fingerprint": told.get(place, "unknown")})
        if place[1] in changed
        else result
        for place, result in zip(places, results, strict=True)
    ]


def _data_settings(result: Result) -> str:
    of_data = ((key, value) for key, value in result.choices.items() if key.partition(".")[0] == "data")
    return repr(sorted((key, value) for key, value in of_data if key != FOLD))


def _fingerprint(folder: Path) -> str | None:
    """Return the fingerprint of a run's data; None where the run did not come to reading them."""
    try:
        return str(files.read_json(folder / layout.PROVENANCE)["data"]["fingerprint"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _config(folder: Path) -> dict[str, Any]:
    """Return what decided a run, flat; nothing where it cannot be read."""
    try:
        values = untrusted.plain(folder / layout.CONFIG)
    except UserError:
        return {}
    found = flatten(values) if isinstance(values, dict) else {}
    return {key: value for key, value in found.items() if is_read(key, found.get("freeze_mode.solver"))}


def _differing(configs: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return the keys whose plain values differ; lists (the rules of a freeze mode) have names for that."""
    seen: dict[str, set[str]] = {}
    for config in configs:
        for key, value in config.items():
            if not isinstance(value, (list, dict)):
                seen.setdefault(key, set()).add(repr(value))
    return [key for key, values in seen.items() if len(values) > 1]


def _told_by_name(key: str, results: Sequence[Result], configs: Sequence[Mapping[str, Any]]) -> bool:
    """Return whether a choice by its short name tells `key` already, as `model` does `model.name`.

    So does `data` whatever is the same for all runs on data of one name, but not a `data.limit` of some of them.
    """
    group, _, rest = key.partition(".")
    if key == FOLDS:
        return False
    if not is_semantic(key) and key != "data.root":  # other pictures may lie in another place
        return True
    if group not in _GROUPS or rest == "name":
        return group in _GROUPS
    values: dict[str, set[str]] = {}
    for result, config in zip(results, configs, strict=True):
        if key in config:
            values.setdefault(repr(result.choices.get(group)), set()).add(repr(config[key]))
    return all(len(own) == 1 for own in values.values())
