"""Tables of the terminal on the outcome of a sweep: its cells, backbones by freeze modes, the Pareto front."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from frostline.core.metrics import ACCURACY
from frostline.records import cluster_jobs, trial_tags
from frostline.records.result import ADAPTER_PARAMETERS, PARAMETERS, PRUNED, SECONDS, Result, value_text
from frostline.report import adapter_words
from frostline.report.backbones import Grid, difference_text, grid
from frostline.report.cells import REPEATS, Cell, cells, contest_of, finalists, runs_heading, varying
from frostline.report.contest import comparable, contests
from frostline.report.pareto import Front, front
from frostline.report.studies import short_text
from frostline.report.tables import duration, millions, ruled, width

_ROWS = 40  # trials of a search that the terminal shows
_LISTED = 3  # runs that did not begin for the same reason and still have a line each


def rows(results: Sequence[Result], *, limit: int | None = None) -> Iterator[Table | str]:
    """Yield the table of a sweep's cells, best first by validation, then a line for every run that did not finish.

    Cells of one data set stand together. The grid of backbones by freeze modes follows the cells where both differ, as
    does the Pareto front of a search for several objectives. `limit` is that of `cells_table`.
    """
    done = [cell for group in comparable(results).values() for cell in cells(group) if cell.finished]
    if done:
        swept, shown = varying(results), _worth_a_row(done)
        yield cells_table(shown, swept, limit=limit)
        if len(shown) < len(done):
            yield f"  {len(done) - len(shown):,} more trials are in the report."
        if {"model", "freeze_mode"} <= {*swept}:
            yield from (pairs_table(pairs, one.where) for one in contests(results) if (pairs := grid(one)))
        if any(trial_tags.OBJECTIVE in result.choices for result in results):
            yield from map(front_table, filter(None, map(front, comparable(results).values())))
    yield from _unfinished([one for one in sorted(results, key=lambda one: one.job) if one.status != "FINISHED"])


def _worth_a_row(done: Sequence[Cell]) -> list[Cell]:
    """Return all cells of a grid; of a long search, the best trials and the fresh seeds."""
    return [cell for rank, cell in enumerate(done) if rank < _ROWS or trial_tags.TRIAL not in cell.choices]


def cells_table(ranked: list[Cell], swept: list[str], *, limit: int | None = None) -> Table:
    """Return a table with a row per cell, in the order given: the `swept` choices, scores over its seeds, and costs.

    The best of the compared cells on each data set, which after a search are the fresh seeds, is bold. If the table
    would be wider than `limit` characters, cost columns are left out, and at last names are folded; None is any width.
    """
    columns, bests = _columns(ranked, swept), dict[str, Cell]()
    for cell in finalists(ranked):
        bests.setdefault(contest_of(cell.choices), cell)
    best = {ranked.index(cell) for cell in bests.values()}
    table = _cells_table(columns, best)
    for cost in ("adapter", "learn", "time"):
        if limit is not None and cost in columns and width(table) > limit:
            del columns[cost]
            table = _cells_table(columns, best)
    return table


def pairs_table(pairs: Grid, where: str = "") -> Table:
    """Return a table with a row per backbone and a column per freeze mode: test scores of the best cell of each pair.

    The last column is the gain of the first mode over the second, the last row that of the first backbone. `where`
    names the data if there are several.
    """
    by = next(iter(pairs.cells.values())).by
    head = " ".join(filter(None, ["test", "" if by == ACCURACY else by.words, where]))
    rows = []
    for model in pairs.models:
        own = [pairs.cells.get((model, mode)) for mode in pairs.modes]
        scores = ["-" if cell is None else _score(cell, by.test) for cell in own]
        rows.append([model, *scores, difference_text(pairs.of_modes(model), by)])
    gains = [difference_text(pairs.of_models(mode), by) for mode in pairs.modes]
    rows.append([" - ".join(pairs.models[:2]), *gains, ""])
    return ruled([head, *pairs.modes, " - ".join(pairs.modes[:2])], rows, left=(head,))


def front_table(found: Front) -> Table:
    """Return a table with a row per trial on the Pareto front, best by the first objective first."""
    rows = []
    for point in found.best:
        settings = " ".join(f"{key}={short_text(value)}" for key, value in point.trial.at.items())
        values = [one.text(value) for one, value in zip(found.objectives, point.values, strict=True)]
        rows.append([point.study.name, str(point.trial.number), settings, *values])
    heads = ["Pareto front", "trial", "settings", *(one.words for one in found.objectives)]
    return ruled(heads, rows, left=("Pareto front", "settings"))


def _columns(ranked: list[Cell], swept: list[str]) -> dict[str, list[str]]:
    names = ["freeze_mode", *(name for name in swept if name not in ("freeze_mode", *REPEATS))]
    columns = {name: [value_text(cell.choices.get(name, "-")) for cell in ranked] for name in names}
    if any(len(cell.results) > 1 for cell in ranked):
        columns[runs_heading(ranked)] = [cell.finished_text for cell in ranked]
    if any(trial_tags.CONFIRMS in cell.choices for cell in ranked):
        columns["trial"] = [_trial(cell) for cell in ranked]
    if any(_stopped(cell) for cell in ranked):
        columns["stopped"] = [_stopped(cell) or "-" for cell in ranked]
    every = {cell.by for cell in ranked}
    which = f" {ranked[0].by.words}" if len(every) == 1 and every != {ACCURACY} else ""  # several: `select` names them
    columns[f"val{which}"] = [_score(cell, cell.by.val) for cell in ranked]
    columns[f"test{which}"] = [_score(cell, cell.by.test) for cell in ranked]
    if any(ADAPTER_PARAMETERS in result.metrics for cell in ranked for result in cell.finished):
        columns["adapter"] = [adapter_words.short((cell.finished or cell.results)[0]) for cell in ranked]
    columns["learn"] = [millions(cell.mean(PARAMETERS)) for cell in ranked]
    columns["time"] = [_or_dash(cell.mean(SECONDS), duration) for cell in ranked]
    return columns


def _cells_table(columns: Mapping[str, Sequence[str]], best: set[int]) -> Table:
    table = Table(box=SIMPLE_HEAD, collapse_padding=True)
    for heading, texts in columns.items():
        number = heading in ("runs", "seeds", "learn", "time") or heading.startswith(("val", "test"))
        least = min(12, max(map(len, [heading, *texts])))  # longer texts may be folded, shorter ones not
        table.add_column(heading, justify="right" if number else "left", min_width=least, overflow="fold")
    for index, row in enumerate(zip(*columns.values(), strict=True)):
        table.add_row(*map(Text, row), style="bold" if index in best else "")
    return table


def _trial(cell: Cell) -> str:
    """Return the number of a trial; marked for the fresh seeds, which have its values and stand for the search."""
    if (number := cell.choices.get(trial_tags.CONFIRMS)) is not None:
        return f"{number}, fresh seeds"
    return str(cell.choices.get(trial_tags.TRIAL, "-"))


def _stopped(cell: Cell) -> str:
    """Return after which epoch a trial was stopped early; empty for all other cells."""
    return next((f"epoch {run.metrics[PRUNED]:.0f}" for run in cell.finished if PRUNED in run.metrics), "")


def _score(cell: Cell, metric: str) -> str:
    """Return the mean over the seeds, and their standard deviation if there are several."""
    mean, spread = cell.mean(metric), cell.spread(metric)
    return _or_dash(mean, cell.by.text) + (f" ±{cell.by.number(spread)}" if spread is not None else "")


def _unfinished(results: Sequence[Result]) -> Iterator[str]:
    """Yield a line for every run, but a single one for many that never began for the same reason, e.g. Ctrl-C."""
    groups: dict[tuple[int | None, str, str | None], list[Result]] = {}
    for result in results:
        begun = result.folder and Path(result.folder).exists()
        groups.setdefault((result.job if begun else None, result.status, result.reason), []).append(result)
    for (_, status, reason), alike in groups.items():
        if len(alike) > _LISTED:
            yield f"  {status.lower()}  {len(alike):,} runs" + (f": {reason}" if reason else "")
        else:
            yield from map(_line, alike)


def _line(result: Result) -> str:
    """Return the line on a run that did not finish: status, name, reason, folder, and the log of a cluster's job."""
    why = f": {result.reason}" if result.reason else ""
    job = cluster_jobs.read(Path(result.folder)) if result.folder else None
    log = f"; the log of {job} is {job.log}" if job is not None and job.log not in why else ""
    return f"  {result.status.lower()}  {result.name}{why}" + (f" ({result.folder}{log})" if result.folder else "")


def _or_dash(value: float, text: Callable[[float], str]) -> str:
    return "-" if math.isnan(value) else text(value)
