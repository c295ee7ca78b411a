"""The one sentence that answers a sweep's question."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from frostline.results import SECONDS, TEST, VAL, Cell, Result, cells, percent, value_text, varying


def answer(results: Sequence[Result]) -> str:
    """Return in plain words which freeze mode won, by how much, how surely and at what cost: one sentence per data set.

    Cells are selected on the validation split and reported on the test split. Runs on different data (choices `data`
    and `data.*`) are not comparable and get a sentence each.
    """
    if all(result.status == "PLANNED" for result in results):
        return f"Nothing was trained: a plan of {_count(len(results), 'run')}."
    swept = varying(results)
    settings = [name for name in swept if name == "data" or name.startswith("data.")]
    groups: dict[str, list[Result]] = {}
    for result in results:
        groups.setdefault(_named(result.choices, settings), []).append(result)
    details = [name for name in swept if name not in (*settings, "seed", "freeze_mode")]
    sentences = [(where, _sentence(cells(group), details)) for where, group in groups.items()]
    return " ".join(f"With {where}: {text}" if where else text for where, text in sentences)


def _sentence(ranked: list[Cell], details: list[str]) -> str:
    done = [cell for cell in ranked if cell.finished and not math.isnan(cell.mean(VAL))]
    if not done:
        runs = sum(len(cell.results) for cell in ranked)
        return f"No answer: none of {_count(runs, 'run')} finished."
    winner = done[0]
    rivals = [cell for cell in done if _mode(cell) != _mode(winner)]
    missing = dict.fromkeys(_mode(cell) for cell in ranked if _mode(cell) not in {_mode(cell) for cell in done})
    absent = f"no run of {' and '.join(missing)} finished" if missing else ""
    if rivals:
        return _comparison(winner, rivals[0], details) + (f"; {absent}." if absent else ".")
    return _alone(winner, absent or "only one freeze mode was tried", len(done), details)


def _alone(best: Cell, why: str, finished: int, details: list[str]) -> str:
    of = f", the best of its {finished} cells on validation" if finished > 1 else ""
    return f"No comparison, as {why}: {_described(best, details)} reached {percent(best.mean(TEST))} on test{of}."


def _comparison(winner: Cell, other: Cell, details: list[str]) -> str:
    """Return the sentence, without its full stop, on the best cells of the two freeze modes that validation prefers."""
    first, second = _described(winner, details), _described(other, details)
    scores = f"{percent(winner.mean(TEST))} against {percent(other.mean(TEST))}"
    gap = winner.mean(TEST) - other.mean(TEST)
    images = winner.finished[0].images.get("test", 0)
    cost = _cost(winner, other)
    if abs(gap) < 1e-9 or 0 < abs(gap) * images < 1 - 1e-9:  # less than one image
        return f"{first} and {second} tie on test, {scores}{cost}"
    points = f"{100 * abs(gap):.2f} points"
    doubt = f", a gap that {images:,} images cannot tell from chance" if _by_chance(winner, other, images) else ""
    if gap < 0:
        return f"{first} wins on validation, but is {points} behind {second} on test, {scores}{doubt}{cost}"
    verdict = f"is {points} ahead of" if doubt else f"wins by {points} over"
    return f"{first} {verdict} {second}, {scores} on test{doubt}{cost}"


def _by_chance(winner: Cell, other: Cell, images: int) -> bool:
    """Return whether the gap on test is less than two standard errors of a difference of two binomial proportions.

    As both cells saw the same images, this errs on the side of doubt. Without the number of images there is none.
    """
    p, q = winner.mean(TEST), other.mean(TEST)
    return images > 0 and abs(p - q) < 2 * math.sqrt((p * (1 - p) + q * (1 - q)) / images)


def _cost(winner: Cell, other: Cell) -> str:
    """Return the clause on training time; empty where it was not measured."""
    mine, yours = winner.mean(SECONDS), other.mean(SECONDS)
    if not (mine > 0 and yours > 0):
        return ""
    return f"; {_mode(winner)} took {mine / yours:.2g} times the training time of {_mode(other)}"


def _mode(cell: Cell) -> str:
    return str(cell.choices.get("freeze_mode"))


def _described(cell: Cell, details: list[str]) -> str:
    inside = _named(cell.choices, details)
    seeds = f"mean of {len(cell.finished)} seeds" if len(cell.finished) > 1 else ""
    notes = ", ".join(note for note in (inside, seeds) if note)
    return f"{_mode(cell)} ({notes})" if notes else _mode(cell)


def _named(choices: dict[str, Any], names: list[str]) -> str:
    return " ".join(f"{name}={value_text(choices.get(name))}" for name in names)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")
