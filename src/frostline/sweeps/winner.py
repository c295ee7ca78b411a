"""Which run is meant: a run's folder or MLflow id as it is, a sweep's as its best cell by validation, first seed."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from frostline.core import environment
from frostline.core.config import UserError, user_error
from frostline.records import run_folders
from frostline.records.layout import BEST, CONFIG, SWEEP
from frostline.records.result import VAL, Result, percent, read_result
from frostline.report.cells import cells
from frostline.tracking import query, session

_RUN_ID = re.compile(r"(?:runs:/)?([0-9a-f]{32})/?")


@dataclass(frozen=True)
class Found:
    """A run whose weights can be used."""

    folder: Path
    """Holds `config.yaml` and `best.safetensors`; of a run that lies in MLflow alone only until the search is left."""
    result: Result
    note: str
    """What the person should know of the choice, in one line; empty where there was none."""
    uri: str | None
    """The store in which the run was found; None where it was found in a folder."""


@contextmanager
def found(target: str) -> Iterator[Found]:
    """Yield the run that `target` names: the folder of a run or sweep, or the MLflow id of either.

    Of a sweep it is the best cell by mean validation accuracy among what is finished, and its first seed. UserError
    where there is no such run, none that kept weights, or none that is better than another since their data differ.
    """
    folder, run_id = Path(target).expanduser(), _RUN_ID.fullmatch(target)
    with tempfile.TemporaryDirectory() as fetched:
        if folder.is_dir():
            yield _in_folder(target, folder, Path(fetched))
        elif run_id:
            yield _in_mlflow(target, run_id[1], Path(fetched))
        else:
            near = [str(path.parent) for name in (BEST, SWEEP) for path in folder.parent.glob(f"*/{name}")]
            raise user_error("run", target, "the folder or MLflow run id of a run or sweep", near)


def _in_folder(target: str, folder: Path, fetched: Path) -> Found:
    own = _read(folder)
    if (folder / BEST).is_file():
        own = own or Result(0, folder.name, str(folder), None, "RUNNING", None, {}, {})
        return Found(folder, own, _unfinished(own), None)
    if own is not None and own.status == "FINISHED":
        return _elsewhere(target, own, _unfinished(own), folder, fetched)
    if own is not None:
        raise _weightless(target, own)
    results = [result for path in run_folders.of(folder) if (result := _read(path))]
    if not results:
        raise user_error("run", target, f"a run with {BEST}, or a sweep with finished runs")
    result, note = best(target, results)
    if (Path(result.folder) / BEST).is_file():
        return Found(Path(result.folder), result, note, None)
    return _elsewhere(target, result, note, folder, fetched)


def best(target: str, results: Sequence[Result]) -> tuple[Result, str]:
    """Return the first seed of the best cell by validation, and a line that says so."""
    ranked = [cell for cell in cells(results) if cell.finished and VAL in cell.finished[0].metrics]
    if not ranked:
        reasons = [result.reason for result in results if result.reason]
        why = f": {reasons[0]}" if reasons else ""
        raise user_error("run", target, f"a sweep with finished runs, and none of its {len(results)} is{why}")
    if len(sets := {str(cell.choices.get("data")) for cell in ranked}) > 1:
        raise user_error("run", target, f"one run of this sweep, whose data differ ({', '.join(sorted(sets))})")
    first = ranked[0].finished[0]
    of = f"the best of {len(ranked)} cells by validation ({percent(ranked[0].mean(VAL))})"
    unfinished = sum(result.status != "FINISHED" for result in results)
    return first, f"{first.name}, {of}" + (f"; {unfinished} of {len(results)} runs unfinished" if unfinished else "")


def _in_mlflow(target: str, run_id: str, folder: Path) -> Found:
    uri = session.tracking_uri(None, environment.project_root())
    results = query.results(uri, run_id)
    if [result.run_id for result in results] == [run_id]:
        result, note = results[0], _unfinished(results[0])
    else:
        result, note = best(target, results)
    return _fetched(target, result, note, uri, folder)


def _elsewhere(target: str, result: Result, note: str, sweep: Path, fetched: Path) -> Found:
    """Return a run that the `sweep` left out, since it had been finished where its record alone tells of it."""
    try:
        tracker = sweep.read(sweep).tracker or {}
    except UserError:
        tracker = {}
    if "uri" not in tracker or result.run_id is None:
        raise _weightless(target, result)
    return _fetched(target, result, note, tracker["uri"], fetched)


def _fetched(target: str, result: Result, note: str, uri: str, folder: Path) -> Found:
    """Return the run with what its record in the store `uri` has of it, put into `folder`."""
    try:
        for name in (CONFIG, BEST):
            query.fetch_artifact(uri, result.run_id or "", name, folder)
    except UserError:
        raise _weightless(target, result) from None
    return Found(folder, replace(result, folder=str(folder)), note, uri)


def _read(folder: Path) -> Result | None:
    """Return the result of the run in `folder`, None where there is none or only a part of one."""
    try:
        result = read_result(folder)
    except (ValueError, TypeError, OSError):
        return None
    here = result is not None and ((folder / BEST).exists() or not Path(result.folder).is_dir())
    return replace(result, folder=str(folder)) if result is not None and here else result


def _weightless(target: str, result: Result) -> UserError:
    why = f" ({result.reason})" if result.reason else ""
    return user_error("run", target, f"a run that kept its weights, and {result.name} is {result.status}{why}")


def _unfinished(result: Result) -> str:
    return "" if result.status == "FINISHED" else f"{result.name} is {result.status}: its best weights until then"
