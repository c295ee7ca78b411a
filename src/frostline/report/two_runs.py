"""Comparison of two single runs on the test split: whether one network is surely better on the same images."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path

from frostline.core.errors import user_error
from frostline.core.metrics import ACCURACY
from frostline.records import provenance
from frostline.records.result import Result
from frostline.report.cell_intervals import repeats
from frostline.report.cells import Cell
from frostline.report.contest import outcome_of
from frostline.report.difference_words import digits_of, gap_text
from frostline.report.paired_difference import Difference, compare

_SURELY = {"win": "better", "contradiction": "worse"}
_HEADS = {"tie": "A tie", "undecided": "Undecided", "other images": "Not comparable"}
_APART = "By the records the test images are not the same: nothing is paired, and the images may make the difference."


@dataclass(frozen=True)
class Comparison:
    """The difference of two runs, first minus second, in the metric that selected both."""

    first: str
    second: str
    """The names of the runs."""
    outcome: str
    """Of the first run: surely `better` or `worse` on the same test images; `tie`, `undecided`; or `other images`."""
    difference: Difference
    verdict: str
    """The outcome in a sentence, with the 95% interval and how it was made."""


def compare_runs(first: Result, second: Result, *, names: tuple[str, str] | None = None) -> Comparison:
    """Return the comparison of two runs, whose folders have the files of their tests; `names` are shown to people.

    Images are compared in pairs if both runs were tested on the same ones. UserError for a run without a score on the
    test split, for a run and itself, and for runs that different metrics selected.
    """
    one, two = names or _names(first, second)
    cells = _cell(first, one), _cell(second, two)
    by = first.selected_by
    if Path(first.folder) == Path(second.folder) or (first.run_id is not None and first.run_id == second.run_id):
        raise user_error("run", two, f"another run, and this is the same one as {one}")
    if by != second.selected_by:
        raise user_error("run", two, f"a run with select={by.epoch} like {one}, not {second.selected_by.epoch}")
    mine, other = map(repeats, cells)
    if not (same := _same_images(first, second)):  # the numbers of images alone would pair different ones
        mine, other = ([replace(repeat, folders=()) for repeat in side] for side in (mine, other))
    difference = compare(mine, other, by)
    outcome = outcome_of(difference, cells[0]) if same else "other images"
    outcome = _SURELY.get(outcome, outcome)
    return Comparison(one, two, outcome, difference, _verdict(outcome, (one, two), difference, cells[0]))


def _cell(run: Result, name: str) -> Cell:
    """Return the cell of this run alone; UserError without a score on the test split."""
    by = run.selected_by
    if run.status != "FINISHED":
        raise user_error("run", name, f"a finished run, and this one is {run.status}")
    if math.isnan(run.metrics.get(by.test, math.nan)):
        raise user_error("run", name, f"a run with a score on the test split, where its {by.words} is not defined")
    return Cell(run.choices, (run,))


def _names(first: Result, second: Result) -> tuple[str, str]:
    if first.name != second.name:
        return first.name, second.name
    return f"{first.name} in {first.folder}", f"{second.name} in {second.folder}"


def _same_images(first: Result, second: Result) -> bool:
    """Return whether the records say that both runs were tested on the same images, with the same labels and groups."""
    match [provenance.read(Path(run.folder)).get("data") for run in (first, second)]:
        case [{"test": one}, {"test": two}]:
            return bool(one == two)
    return False


def _verdict(outcome: str, names: tuple[str, str], difference: Difference, cell: Cell) -> str:
    (one, two), by, digits = names, cell.by, digits_of(cell)
    first, second = (by.text(score, digits) for score in difference.scores)
    gap = gap_text(difference, by, digits)
    where = f"{'' if by == ACCURACY else f'in {by.words} '}on the test split {gap}"
    if outcome in _HEADS:
        told = f"{_HEADS[outcome]}: {one} {first}, {two} {second} {where}."
        return f"{told} {_APART}" if outcome == "other images" else told
    return f"{one} is surely {outcome} than {two}: {first} against {second} {where}."
