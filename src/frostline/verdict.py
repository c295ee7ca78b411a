"""The answer to a sweep's question in plain words: which freeze mode, how surely, at what cost, and what next."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from frostline.contest import PLAIN, Contender, Contest, contests
from frostline.results import IMAGES, SECONDS, TEST, Cell, Result, named, value_text, varying
from frostline.suggest import command

if TYPE_CHECKING:
    from frostline.comparison import Difference

_MANY_SEEDS = 20  # more than that is no advice
_ALIKE = 1.1  # training times within a tenth differ by what else the machine does


def answer(results: Sequence[Result]) -> str:
    """Return the verdicts in plain words, one for each data set; commands stand between backticks."""
    if all(result.status == "PLANNED" for result in results):
        return f"Nothing was trained: a plan of {_count(len(results), 'run')}."
    found = contests(results)
    sentences = [(contest.where, verdict(contest)) for contest in found]
    return " ".join(f"With {where}: {text}" if where else text for where, text in sentences)


def verdict(contest: Contest) -> str:
    """Return in plain words how a contest ended, and what it takes to know more."""
    key, found, results = contest.key, contest.contenders, contest.results
    tuned = [name for name in varying(results) if name not in ("seed", key) and not name.startswith("data")]
    if not found:
        return f"No answer: none of {_count(len(results), 'run')} finished."
    if contest.difference is None:
        return _alone(key, found[0], results, tuned)
    parts = [
        _comparison(found[0], found[1], contest.difference, contest.outcome),
        *_next_step(contest, contest.difference, tuned),
        *_best_settings(found[:2], tuned),
        *_edges(key, found[:2], results, tuned),
        *_budget(found),
        *_unfinished(key, found, results),
    ]
    return " ".join(parts)


def _comparison(first: Contender, second: Contender, difference: Difference, outcome: str) -> str:
    """Return the sentence on the two, with its full stop."""
    digits = _digits(first.cell)
    scores = [f"{100 * one.cell.mean(TEST):.{digits}f}%" for one in (first, second)]
    within = difference.interval
    sure = f"95% interval {100 * within.low:.{digits}f} to {100 * within.high:.{digits}f}; " if within else ""
    gap = f"({100 * difference.gap:+.{digits}f} points, {sure}{difference.how})"
    one, two = first.name, second.name
    cost = _cost(first, second)
    if outcome == "win":
        return f"{_capital(one)} wins: {scores[0]} against {scores[1]} for {two} on the test split {gap}{cost}."
    if outcome == "contradiction":
        return (
            f"No clear winner: {one} is best on validation, yet behind {two} on the test split, "
            f"{scores[0]} against {scores[1]} {gap}{cost}."
        )
    head = "A tie" if outcome == "tie" else "Undecided"
    return f"{head}: {one} {scores[0]}, {two} {scores[1]} on the test split {gap}{cost}."


def _digits(cell: Cell) -> int:
    """Return how many decimals of a percentage say something, given the number of test images."""
    return 1 if cell.finished[0].images.get("test", 0) < 5000 else 2


def _cost(first: Contender, second: Contender) -> str:
    """Return the clause on training time, of the first against the second; empty where it was not measured."""
    mine, yours = first.cell.mean(SECONDS), second.cell.mean(SECONDS)
    if not (mine > 0 and yours > 0):
        return ""
    if mine >= yours * _ALIKE:
        return f", for {_times(mine / yours)} times the training time{_stored(second)}"
    fast = yours >= mine * _ALIKE
    if fast:
        return f", and trains {_times(yours / mine)} times as fast{_stored(first)}"
    return ", for about the same training time"


def _stored(faster: Contender) -> str:
    """Return the remark that a time is short since another run had computed the features."""
    if faster.cell.mean(IMAGES) != 0:
        return ""
    return f" ({value_text(faster.value)} found its features in the store)"


def _times(ratio: float) -> str:
    return f"{ratio:.1f}" if ratio < 9.95 else f"{ratio:,.0f}"


def _next_step(contest: Contest, difference: Difference, tuned: Sequence[str]) -> list[str]:
    """Return what to do where the two were not told apart: in a tie to take the cheaper, else more seeds."""
    if contest.outcome == "win":
        return []
    first, second = contest.contenders[:2]
    if contest.outcome == "tie":
        return _cheaper(first, second)
    seeds = _seeds_needed(difference)
    if seeds > _MANY_SEEDS:
        return [f"It would take about {seeds:,} seeds to tell them apart.", *_cheaper(first, second)]
    changes = {contest.key: [first.value, second.value]}
    changes |= {name: _both(name, first.cell, second.cell) for name in tuned}
    return [f"To decide it: `{command(first.cell.finished[0], {**changes, 'seed': range(seeds)})}`."]


def _cheaper(first: Contender, second: Contender) -> list[str]:
    one, other = sorted((first, second), key=lambda one: one.cell.mean(SECONDS))
    clear = other.cell.mean(SECONDS) >= _ALIKE * one.cell.mean(SECONDS) > 0
    return [f"{_capital(one.name)} is the cheaper."] if clear else []


def _both(name: str, first: Cell, second: Cell) -> list[Any]:
    values = [first.choices.get(name), second.choices.get(name)]
    return values[:1] if values[0] == values[1] else values


def _seeds_needed(difference: Difference) -> int:
    """Return how many seeds would shrink the interval to the gap: it narrows with their square root; at least 5."""
    if difference.seeds == 1 or difference.interval is None:
        return 5
    half = (difference.interval.high - difference.interval.low) / 2
    ratio = half / max(abs(difference.gap), 1e-9)
    return max(5, 2 * difference.seeds) if ratio < 1 else math.ceil(max(5, difference.seeds * min(ratio, 1e3) ** 2))


def _best_settings(found: Sequence[Contender], tuned: Sequence[str]) -> list[str]:
    """Return which values of the tuned keys the best cells have."""
    parts = []
    for name in tuned:
        values = [value_text(one.cell.choices.get(name)) for one in found]
        if len(set(values)) == 1:
            parts.append(f"{name} {values[0]} is best in both.")
        else:
            each = [f"{value} for {value_text(one.value)}" for value, one in zip(values, found, strict=True)]
            parts.append(f"The best {name} is {' and '.join(each)}.")
    return parts


def _edges(key: str, found: Sequence[Contender], results: Sequence[Result], tuned: Sequence[str]) -> list[str]:
    """Return whose best lr has none beyond it that was tried, and the command that goes on from there.

    The command holds all that finished, which is not run again, so that its answer is about all of it, and both
    contenders, so that they keep the same budget.
    """
    at: dict[tuple[str, int], list[Contender]] = {}
    rivals = found if key != "lr" else found[:1]
    for one in rivals:
        tried = sorted({lr for run in results if (lr := _tried_lr(run, key, one)) is not None})
        best = one.cell.choices.get("lr")
        if len(tried) > 1 and best in (tried[0], tried[-1]):
            at.setdefault(("larger" if best == tried[-1] else "smaller", len(tried)), []).append(one)
    if not at:
        return []
    parts = [_edge(key, side, tried, group) for (side, tried), group in at.items()]
    beyond = [lr for (side, _), group in at.items() for lr in _beyond(side, group)]
    known = [_tried_lr(run, key, one) for run in results for one in rivals if run.status == "FINISHED"]
    changes: dict[str, Sequence[object]] = {} if key == "lr" else {key: [one.value for one in rivals]}
    others = {name: _both(name, rivals[0].cell, rivals[-1].cell) for name in tuned if name != "lr"}
    seeds = sorted({run.choices.get("seed") for one in rivals for run in one.cell.results}, key=repr)
    same = {"seed": seeds} if len(seeds) > 1 else {}
    grid = sorted({lr for lr in (*known, *beyond) if lr is not None})
    again = command(rivals[0].cell.finished[0], {**changes, **others, "lr": grid, **same})
    return [*parts, f"To try more (what is finished is not run again): `{again}`."]


def _tried_lr(run: Result, key: str, one: Contender) -> float | None:
    """Return the lr of a run that shares `one`'s value of `key`, whatever became of it."""
    lr = run.choices.get("lr")
    return lr if isinstance(lr, float) and (key == "lr" or run.choices.get(key) == one.value) else None


def _edge(key: str, side: str, tried: int, group: Sequence[Contender]) -> str:
    """Return the sentence on those whose best lr lies on one side; of two values each lies at an edge."""
    names = " and ".join(f"`{value_text(one.value)}`" for one in group)
    of = "" if key == "lr" else f" of {names}"
    where = f"is the {side} of the two tried" if tried == 2 else "lies at the edge of the grid"
    return f"The best lr{of} {where}; {side} may be better still."


def _beyond(side: str, group: Sequence[Contender]) -> list[float]:
    """Return two learning rates further out, about a half and a whole power of ten."""
    best = [one.cell.choices["lr"] for one in group]
    steps = (max(best) * 3, max(best) * 10) if side == "larger" else (min(best) / 3, min(best) / 10)
    return [float(f"{step:.1g}") for step in steps]


def _budget(found: Sequence[Contender]) -> list[str]:
    """Return the warning that one had more cells to choose its best from, which favours it."""
    if len({one.tried for one in found}) == 1:
        return []
    counts = ", ".join(f"{value_text(one.value)} {one.tried}" for one in found)
    return [f"Not the same tuning budget: cells to choose from were {counts}."]


def _unfinished(key: str, found: Sequence[Contender], results: Sequence[Result]) -> list[str]:
    """Return what the answer lacks: values of which no run finished, runs that did not, and runs to come."""
    there = {repr(one.value) for one in found}
    coming = [run for run in results if run.status in ("RUNNING", "WAITING")]
    missing = {repr(value): value for run in results if repr(value := run.choices.get(key)) not in there}
    ended = "has finished yet" if any(repr(run.choices.get(key)) in missing for run in coming) else "finished"
    parts = [f"No run of {' and '.join(map(value_text, missing.values()))} {ended}."] if missing else []
    lost = [run for run in results if run.status not in ("FINISHED", "RUNNING", "WAITING")]
    if any(repr(run.choices.get(key)) in there for run in lost):
        parts.append(f"{_count(len(lost), 'run')} of {len(results):,} did not finish.")
    return [*parts, f"{_count(len(coming), 'run')} of {len(results):,} still to come."] if coming else parts


def _alone(key: str, only: Contender, results: Sequence[Result], tuned: Sequence[str]) -> str:
    """Return what one contender came to, and how to find it a rival."""
    missing = _unfinished(key, [only], results)
    digits, within, count = _digits(only.cell), only.interval, len(only.cell.finished)
    sure = f"95% interval {100 * within.low:.{digits}f} to {100 * within.high:.{digits}f}; " if within else ""
    how = f"({sure}{'one seed' if count == 1 else f'{count} seeds'})"
    inside = named(only.cell.choices, tuned)
    settings = f" with {inside}" if inside else ""
    name = only.name if missing else _capital(only.name)
    score = f"{name} reached {100 * only.cell.mean(TEST):.{digits}f}% on the test split{settings} {how}"
    if missing:
        return f"No comparison: {score}. {' '.join(missing)}"
    modes = [only.value, "head" if only.value == "full" else "full"]
    again = command(only.cell.finished[0], {"freeze_mode": modes})
    return f"{score}; nothing was there to compare it with. Try: `{again}`."


def _capital(text: str) -> str:
    return text[0].upper() + text[1:] if text.split(" (")[0] in PLAIN.values() else text


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" + ("" if number == 1 else "s")
