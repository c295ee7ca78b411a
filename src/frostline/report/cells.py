"""Cells of a sweep, each a point of its grid with all its repeats, and the best cell of every freeze mode.

The metric in `select` chooses cells on the validation split; the test split is only reported.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

from frostline.core.config_keys import differing
from frostline.core.metrics import ACCURACY, Metric
from frostline.records import trial_tags
from frostline.records.result import PARAMETERS, SECONDS, Result, choices_text

FOLD, FOLDS, SUBSET = "data.fold", "data.folds", "data.subset_seed"
_KEYS = {"seed": "seed", "fold": FOLD, "draw": SUBSET}
REPEATS = (*_KEYS.values(),)
"""Choices by which the runs of one cell differ: its seeds, folds and draws of training images."""
_COSTS = {"train_seconds": SECONDS, "trainable_parameters": PARAMETERS}


@dataclass(frozen=True, repr=False)
class Cell:
    """One point of the grid: all results that differ only in `REPEATS`."""

    choices: dict[str, Any]
    results: tuple[Result, ...]

    def __repr__(self) -> str:
        return f"<Cell {choices_text(self.choices, [*self.choices])}: {self.finished_text} finished>"

    @property
    def by(self) -> Metric:
        """The metric that selects it."""
        return self.results[0].selected_by

    @property
    def folds(self) -> bool:
        """Whether it was cross-validated; in a sweep over `data.folds`, the cell with `null` was not."""
        choices = self.results[0].choices
        return FOLD in choices and choices.get(FOLDS) != "null"

    @property
    def depends_on_seed(self) -> bool:
        """Whether its seeds change the result: the order of batches, weights from scratch, or the training images.

        Solved heads have no lr; on pretrained weights and the same images they are the same with every seed.
        """
        return "lr" in self.choices or self.choices.get("model.weights", "") in (None, "null") or self.redrawn

    @property
    def redrawn(self) -> bool:
        """Whether its runs learned from different draws of training images."""
        return len({repr(result.choices.get(SUBSET)) for result in self.results}) > 1

    @property
    def repeat(self) -> str:
        """What its repeats are: `fold`, `draw` or `seed`, also if each seed has a draw of its own."""
        follow = all(result.choices.get(SUBSET) == result.choices.get("seed") for result in self.results)
        return "fold" if self.folds else "draw" if self.redrawn and not follow else "seed"

    def repeat_of(self, run: Result) -> object:
        """Return the number of the repeat to which a run belongs: of its fold, else of its draw, else its seed."""
        return run.choices.get(_KEYS[self.repeat])

    @property
    def finished(self) -> tuple[Result, ...]:
        """The results over which mean and spread are taken."""
        return tuple(result for result in self.results if result.status == "FINISHED")

    @property
    def finished_text(self) -> str:
        """The number of its finished runs as text, e.g. `3`, or `2 of 3` if some did not finish."""
        finished, every = len(self.finished), len(self.results)
        return str(finished) if finished == every else f"{finished} of {every}"

    def repeats(self, metric: str) -> list[list[Result]]:
        """Return the finished runs that have a metric, grouped by `repeat_of`.

        Of a seed that was run twice, the later run counts.
        """
        runs = (run for run in self.finished if metric in run.metrics)
        found = {repr([run.choices.get(name) for name in REPEATS]): run for run in runs}
        groups: dict[str, list[Result]] = {}
        for run in found.values():
            groups.setdefault(repr(self.repeat_of(run)), []).append(run)
        return list(groups.values())

    def mean(self, metric: str) -> float:
        """Return the mean of `metric` over its `values`; nan for none."""
        values = self.values(metric)
        return fmean(values) if values else math.nan

    def means(self) -> dict[str, float]:
        """Return the mean of every metric that a finished run has."""
        return {name: self.mean(name) for name in dict.fromkeys(name for run in self.finished for name in run.metrics)}

    def spread(self, metric: str) -> float | None:
        """Return the sample standard deviation of the values that `mean` averages; None for fewer than two of them.

        Also None if the cell does not depend on the seed: its seeds are one repeat, however many there are.
        """
        values = self.values(metric)
        return stdev(values) if len(values) > 1 and (self.depends_on_seed or self.folds) else None

    def values(self, metric: str) -> list[float]:
        """Return the value of `metric` for each seed, or for each fold or draw as the mean over its seeds."""
        return [fmean(run.metrics[metric] for run in runs) for runs in self.repeats(metric)]


def cells(results: Iterable[Result]) -> list[Cell]:
    """Return the cells, the best on validation first; of equals the one that trains fewer parameters first.

    Cells in which no seed finished come last, in the order of their jobs.
    """
    groups: dict[str, list[Result]] = {}
    for result in sorted(results, key=lambda result: result.job):
        groups.setdefault(repr(sorted(_but_repeats(result).items())), []).append(result)
    return sorted((Cell(_but_repeats(group[0]), tuple(group)) for group in groups.values()), key=_rank)


def runs_heading(found: Iterable[Cell]) -> str:
    """Return the heading of a column with `finished_text` of cells: `seeds`, or `runs` where they are not all seeds."""
    return "seeds" if all(cell.repeat == "seed" for cell in found) else "runs"


def repeats_typed(found: Iterable[Cell]) -> dict[str, list[Any]]:
    """Return the seeds of cells, and their draws of training images, as keys to sweep: `${seed}` if each has its own.

    A key of which there is one value is left out.
    """
    runs = [run.choices for cell in found for run in cell.results]
    values = {name: sorted({run.get(name) for run in runs}, key=repr) for name in ("seed", SUBSET)}
    swept = {name: own for name, own in values.items() if len(own) > 1}
    follow = SUBSET in swept and all(run.get(SUBSET) == run.get("seed") for run in runs)
    return swept | {SUBSET: ["${seed}"]} if follow else swept


def finalists(found: Sequence[Cell]) -> list[Cell]:
    """Return the cells that are compared: all, except the trials of a search whose best trial was confirmed.

    The fresh seeds stand for that search: the best of many trials looks better on validation than it is.
    """
    confirmed = {study_of(cell.choices) for cell in found if trial_tags.CONFIRMS in cell.choices and cell.finished}
    return [cell for cell in found if trial_tags.TRIAL not in cell.choices or study_of(cell.choices) not in confirmed]


def study_of(choices: Mapping[str, Any]) -> str:
    """Return a key of the study to which a run belongs: its name, data and selection metric."""
    return repr([choices.get(trial_tags.STUDY), contest_of(choices)])


def contest_of(choices: Mapping[str, Any]) -> str:
    """Return a key of the cells with which a cell is compared, also for one of its runs: data and selection metric."""
    of_data = {name: value for name, value in choices.items() if is_of_data(name)}
    return repr([sorted(of_data.items()), choices.get("select")])


def is_of_data(name: str) -> bool:
    """Return whether runs that differ in the choice `name` saw different data: folds and draws are repeats."""
    return name == "data" or (name.startswith("data.") and name not in REPEATS)


def varying(results: Sequence[Result]) -> list[str]:
    """Return the names of the choices that differ within the sweep, in the order in which runs state them.

    Runs without a choice (a solved head has no lr) are ignored for that choice. Marks of a search are not choices.
    `optimizer.name` is left out beside `optimizer`, which has the same values.
    """
    found = differing([result.choices for result in results])
    same = [f"{name}.name" for name in found]
    return [name for name in found if name not in (*trial_tags.MARKS, *same)]


def metrics(results: Sequence[Result]) -> dict[str, float]:
    """Return `<mode>/<metric>` of each mode's best cell by validation: means over its seeds, and its learning rate.

    The metrics are `val_accuracy`, `test_accuracy`, those of `select`, `train_seconds`, `trainable_parameters` and
    `lr`. Runs on different data are not compared: with several data sets the keys begin with theirs.
    """
    found: dict[str, float] = {}
    for name, cell in _best(results).items():
        scores = {f"val_{by.name}": by.val for by in (ACCURACY, cell.by)}
        scores |= {f"test_{by.name}": by.test for by in (ACCURACY, cell.by)}
        values = {key: cell.mean(metric) for key, metric in (scores | _COSTS).items()}
        values["lr"] = float(cell.choices.get("lr", math.nan))
        found |= {f"{name}/{key}": value for key, value in values.items() if not math.isnan(value)}
    return found


def tags(results: Sequence[Result]) -> dict[str, str]:
    """Return `frostline.best.<mode>`: the choices in each mode's best cell, of the keys that the sweep varies."""
    swept = [name for name in varying(results) if name not in (*REPEATS, "freeze_mode")]
    return {
        f"frostline.best.{name.replace('/', '.')}": choices_text(cell.choices, swept) or "the only cell"
        for name, cell in _best(results).items()
    }


def _best(results: Sequence[Result]) -> dict[str, Cell]:
    """Return the best finished cell per mode, or per data set and mode if there are several data sets."""
    several = "data" in varying(results)
    best: dict[str, Cell] = {}
    for cell in finalists(cells(results)):  # best first
        mode = str(cell.choices.get("freeze_mode"))
        name = f"{cell.choices.get('data')}/{mode}" if several else mode
        if cell.finished:
            best.setdefault(name, cell)
    return best


def _but_repeats(result: Result) -> dict[str, Any]:
    return {name: value for name, value in result.choices.items() if name not in REPEATS}


def _rank(cell: Cell) -> tuple[bool, str, float, float, int]:
    value = cell.mean(cell.by.val)
    parameters = cell.mean(PARAMETERS)
    return (
        not cell.finished,
        cell.by.name,
        math.inf if math.isnan(value) else -cell.by.sign * value,
        math.inf if math.isnan(parameters) else parameters,
        cell.results[0].job,
    )
