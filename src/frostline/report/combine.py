"""What sweeps left in their folders, read again: finished, failed, running and not yet begun runs alike."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from frostline.core import files, untrusted
from frostline.core.config import UserError, flatten, user_error
from frostline.records import layout, liveness, run_folders
from frostline.records.layout import RESULT, SWEEP
from frostline.records.result import Result, varying

_GROUPS = ("model", "freeze_mode", "optimizer", "schedule", "augment", "data")


@dataclass(frozen=True)
class Sweep:
    """A sweep as its folder tells it."""

    folder: Path
    results: tuple[Result, ...]
    """In the order of its jobs; the status of a run without a result is `RUNNING` or `WAITING`."""
    tracker: Mapping[str, str] | None
    """`uri`, `experiment_id` and `sweep_run_id` of its record."""

    @property
    def name(self) -> str:
        """The name for people, which its record has too."""
        return f"{self.folder.parent.name} {self.folder.name}"


def read(folder: Path) -> Sweep:
    """Return the sweep in `folder`; a run's folder stands for its sweep. Raises UserError where there is none."""
    folder = run_folders.sweep_of(folder) or folder
    try:
        shared = files.parsed((folder / SWEEP).read_text(encoding="utf-8"))
        told = [(run_folders.told(facts), str(facts["name"]), dict(facts["choices"])) for facts in shared["runs"]]
        tracker = {key: str(value) for key, value in (shared.get("tracker") or {}).items() if value is not None}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        near = [str(path.parent) for path in folder.parent.glob(f"*/{SWEEP}")]
        raise user_error("sweep", folder, f"the folder of a sweep, with its {SWEEP}", near) from None
    runs = [_result(folder, number, *facts) for number, facts in enumerate(told)]
    if _gone(folder / layout.OWNER):
        runs = [replace(run, status="KILLED") if run.status == "WAITING" else run for run in runs]
    return Sweep(folder, tuple(runs), tracker or None)


def _gone(beat: Path) -> bool:
    """Return whether it is known that the process which gives this sign of life does so no more."""
    owner = liveness.read(beat)
    return owner is not None and owner.gone(beat.stat().st_mtime)


def _result(sweep: Path, number: int, folder: str, name: str, choices: dict[str, Any]) -> Result:
    own = sweep / folder
    waiting = Result(number, name, str(own), None, "WAITING", "not begun", choices, {})
    try:
        found = Result.of(files.parsed((own / RESULT).read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return _begun(own, waiting) if own.is_dir() else waiting
    return found if Path(found.folder).is_dir() else replace(found, folder=str(own))  # the sweep may have been moved


def _begun(folder: Path, waiting: Result) -> Result:
    """Return a run without a result as running, unless its process is known to be gone."""
    if _gone(folder / layout.BEAT):
        return replace(waiting, status="KILLED", reason="its process is gone")
    return replace(waiting, status="RUNNING", reason="no result yet")


def together(sweeps: Sequence[Sweep]) -> list[Result]:
    """Return the runs of several sweeps as if they were one: what differs between sweeps becomes a choice too.

    A run that was done twice, seed and all, counts once: the last time that it finished.
    """
    if len(sweeps) == 1:
        return list(sweeps[0].results)
    results = [result for sweep in sweeps for result in sweep.results]
    configs = [_config(Path(result.folder)) for result in results]
    keys = [key for key in _differing(configs) if not _told_by_name(key, results)]
    known = {name for result in results for name in result.choices}
    keys = list(dict.fromkeys([*keys, *sorted(known - {"seed"})]))
    full = [
        replace(result, choices={**{key: config[key] for key in keys if key in config}, **result.choices})
        for result, config in zip(results, configs, strict=True)
    ]
    origins = [number for number, sweep in enumerate(sweeps) for _ in sweep.results]
    last: dict[str, Result] = {}
    for result in sorted(_by_data(full, origins), key=lambda result: result.status == "FINISHED"):
        last[repr(sorted(result.choices.items()))] = result
    return [replace(result, job=number) for number, result in enumerate(last.values())]


def _by_data(results: Sequence[Result], origins: Sequence[int]) -> Sequence[Result]:
    """Return the runs, told apart by `data.fingerprint` too where the same settings stood for other pictures.

    A folder's pictures may change between sweeps; within one of them, numbered by `origins`, they do not.
    """
    prints: dict[tuple[int, str], str] = {}
    found: dict[str, set[str]] = {}
    places = [(origin, _data_settings(result)) for origin, result in zip(origins, results, strict=True)]
    for place, result in zip(places, results, strict=True):
        if fingerprint := _fingerprint(Path(result.folder)):
            prints[place] = fingerprint[:8]
            found.setdefault(place[1], set()).add(fingerprint)
    if all(len(several) == 1 for several in found.values()):
        return results
    return [
        replace(result, choices={**result.choices, "data.fingerprint": prints.get(place, "unknown")})
        for place, result in zip(places, results, strict=True)
    ]


def _data_settings(result: Result) -> str:
    return repr(sorted((key, value) for key, value in result.choices.items() if key.partition(".")[0] == "data"))


def _fingerprint(folder: Path) -> str | None:
    """Return the fingerprint of a run's data; None where the run did not come to reading them."""
    try:
        return str(files.parsed((folder / layout.PROVENANCE).read_text(encoding="utf-8"))["data"]["fingerprint"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _config(folder: Path) -> dict[str, Any]:
    """Return what decided a run, flat; nothing where it cannot be read."""
    try:
        values = untrusted.plain(folder / layout.CONFIG)
    except UserError:
        return {}
    return flatten(values) if isinstance(values, dict) else {}


def _differing(configs: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return the keys whose plain values differ; lists (the rules of a freeze mode) have names for that."""
    seen: dict[str, set[str]] = {}
    for config in configs:
        for key, value in config.items():
            if not isinstance(value, (list, dict)):
                seen.setdefault(key, set()).add(repr(value))
    return [key for key, values in seen.items() if len(values) > 1]


def _told_by_name(key: str, results: Sequence[Result]) -> bool:
    """Return whether a choice by its short name tells `key` already, as `model` does `model.name`."""
    group, _, rest = key.partition(".")
    skipped = ("dry_run", "resume", "experiment_name", "device", "tracking", "store", "checkpoint")
    return group in skipped or (group in _GROUPS and (rest == "name" or group in varying(results)))
