"""Find the trained network that a name stands for: that of a run, or of the best cell of a sweep by validation."""

from __future__ import annotations

import functools
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from frostline.core import files, untrusted
from frostline.core.config import KEPT, Config
from frostline.core.errors import UserError
from frostline.records import run_folders, sweep_record
from frostline.records.layout import BEST, CONFIG, RUN_PREFIX
from frostline.records.result import Result, number_of, read_result
from frostline.report.cells import Cell, cells, finalists
from frostline.sweeps import catalog
from frostline.sweeps.catalog import TypedName
from frostline.tracking import download, query, tracking_uri


@dataclass(frozen=True)
class Trained:
    """A run with weights."""

    folder: Path
    """Contains `config.yaml` and `best.safetensors`; a temporary folder for a run that only MLflow has."""
    result: Result
    note: str
    """How the run was chosen, in one line for the user; empty if it was named directly."""
    uri: str | None
    """The tracking store of the run; None if it was found in a folder."""
    chosen: bool = False
    """Whether it was chosen as the best of several."""


@contextmanager
def found(name: str) -> Iterator[Trained]:
    """Yield the run that `name` stands for (see `catalog`); for a sweep the first seed of its best cell.

    The best cell has the best mean over its seeds on validation, among finished runs. UserError if there is no such
    run, if it kept no weights, or if the runs of a sweep cannot be compared.
    """
    with tempfile.TemporaryDirectory() as fetched:
        yield find(TypedName(name), Path(fetched))


def weights(config: Config, folder: Path) -> Path:
    """Put the weights of the run that `model.weights` names into `folder`, and return their file.

    UserError for a sweep of several runs, since further runs may change which one is the best.
    """
    name = TypedName(str(config.model.weights), "model.weights")
    with tempfile.TemporaryDirectory() as fetched:
        run = find(name, Path(fetched), tracking_uri.resolved(config.tracking.uri))
        if run.chosen:
            one = f"{RUN_PREFIX}{run.result.run_id}" if run.result.run_id else run.folder
            raise name.wrong(f"one run: the best of these by validation is {one}")
        if (kind := _setting(run.folder / CONFIG, "adapter", "kind")) in KEPT:
            told = f"a run with a plain network, and that of {run.result.name} has kept its adapters ({kind})"
            raise name.wrong(f"{told}: predict, export and register take such a run")
        from frostline.models.weights import whole  # imports torch

        file = whole(run.folder / BEST, folder)
        return file if file.parent == folder else Path(shutil.copyfile(file, folder / BEST))


def find(name: TypedName, fetched: Path, uri: str | None = None) -> Trained:
    """Return the run that a name stands for; files that only MLflow has are put into `fetched`."""
    target = catalog.resolve(name, uri)
    if target.folder is not None:
        return _in_folder(name, target.folder, fetched)
    if len(target.ids) > 1:
        raise name.wrong(f"one run or sweep, and this experiment has {len(target.ids)} sweeps")
    return _in_mlflow(name, target.uri, target.ids[0], fetched)


def _in_folder(name: TypedName, folder: Path, fetched: Path) -> Trained:
    own = _read(folder)
    if (folder / BEST).is_file():
        own = own or Result(0, folder.name, str(folder), None, "RUNNING", None, {}, {})
        return Trained(folder, own, _unfinished(own), None)
    if own is not None and own.status == "FINISHED":
        return _elsewhere(name, own, _unfinished(own), folder, fetched)
    if own is not None:
        raise _weightless(name, own)
    results = [result for path in run_folders.of(folder) if (result := _read(path))]
    if not results:
        raise name.wrong(f"a run with {BEST}, or a sweep with finished runs")
    result, note = best(name, results)
    if files.readable(Path(result.folder) / BEST):
        run = Trained(Path(result.folder), result, note, None)
    else:
        run = _elsewhere(name, result, note, folder, fetched)
    return replace(run, chosen=len(results) > 1)


def ranked(name: TypedName, results: Sequence[Result]) -> list[Cell]:
    """Return the finished cells, best by validation first; UserError if there is none, or if they are not compared."""
    from frostline.report.contest import contests  # imports NumPy

    every = [cell for cell in finalists(cells(results)) if cell.finished and cell.by.val in cell.finished[0].metrics]
    if not every:
        reasons = [result.reason for result in results if result.reason]
        why = f": {reasons[0]}" if reasons else ""
        raise name.wrong(f"a sweep with finished runs, and none of its {len(results)} is{why}")
    if len(found := contests([result for cell in every for result in cell.results])) > 1:
        where = ", ".join(sorted(contest.where for contest in found))
        raise name.wrong(f"one run of this sweep, since these are not compared: {where}")
    return every


def best(name: TypedName, results: Sequence[Result]) -> tuple[Result, str]:
    """Return the first seed of the best cell by validation, and a line about it; for a search a confirming run."""
    found = ranked(name, results)
    first, by = found[0].finished[0], found[0].by
    of = f"the best of {number_of(len(found), 'cell')} by validation ({by.text(found[0].mean(by.val))})"
    unfinished = sum(result.status != "FINISHED" for result in results)
    note = f"{first.name}, {of}" + (f"; {unfinished} of {len(results)} runs unfinished" if unfinished else "")
    return first, note + ("; to learn from this fold too, train without data.folds" if found[0].folds else "")


def _in_mlflow(name: TypedName, uri: str, run_id: str, folder: Path) -> Trained:
    results = query.results(uri, run_id)
    if [result.run_id for result in results] == [run_id]:
        return _fetched(name, results[0], _unfinished(results[0]), uri, folder)
    result, note = best(name, results)
    return replace(_fetched(name, result, note, uri, folder), chosen=len(results) > 1)


def _elsewhere(name: TypedName, result: Result, note: str, sweep: Path, fetched: Path) -> Trained:
    """Fetch a run from MLflow that the `sweep` skipped, because another sweep, not on this machine, had finished it."""
    try:
        tracker = sweep_record.read(sweep).tracker or {}
    except UserError:
        tracker = {}
    if "uri" not in tracker or result.run_id is None:
        raise _weightless(name, result)
    return _fetched(name, result, note, tracker["uri"], fetched)


def _fetched(name: TypedName, result: Result, note: str, uri: str, folder: Path) -> Trained:
    try:
        for file in (CONFIG, BEST):
            download.fetch_artifact(uri, result.run_id or "", file, folder)
    except UserError:
        raise _weightless(name, result, folder) from None
    _fetch_base(uri, result.run_id or "", folder)
    return Trained(folder, replace(result, folder=str(folder)), note, uri)


def _fetch_base(uri: str, run_id: str, folder: Path) -> None:
    """If a run's weights in `folder` are only what it learned, fetch its sweep's base weights beside them."""
    from frostline.models import base_weights  # imports torch

    if (digest := base_weights.named(folder / BEST)) is not None:
        sweep, _ = query.parent_sweep(uri, run_id)
        download.fetch_base(uri, sweep, base_weights.name_of(digest), folder)


def _read(folder: Path) -> Result | None:
    """Return the result of the run in `folder`, with this folder if its weights are here; None without a result."""
    result = read_result(folder)
    here = result is not None and ((folder / BEST).exists() or not files.readable(Path(result.folder)))
    return replace(result, folder=str(folder)) if result is not None and here else result


def _weightless(name: TypedName, result: Result, folder: Path | None = None) -> UserError:
    """Return the error for a run without weights, whose config may be in `folder`."""
    if _setting((folder or Path(result.folder)) / CONFIG, "solver") == "knn":  # has no weights
        return name.wrong(
            f"a run whose head has weights, and {result.name} has none: take freeze=probe or freeze=centroid"
        )
    why = f" ({result.reason})" if result.reason else ""
    return name.wrong(f"a run that kept its weights, and {result.name} is {result.status}{why}")


def _setting(config: Path, *keys: str) -> object:
    """Return a value of the freeze mode in a run's config, at nested `keys`; None if it is not there."""
    try:
        return functools.reduce(lambda section, key: section[key], keys, untrusted.plain(config)["freeze_mode"])
    except (UserError, OSError, KeyError, TypeError):
        return None


def _unfinished(result: Result) -> str:
    return "" if result.status == "FINISHED" else f"{result.name} is {result.status}: its best weights until then"
