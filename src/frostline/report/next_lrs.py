"""Learning rates to try next: contenders whose best lr lies at the edge of the grid, and a command that extends it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from frostline.records import trial_tags
from frostline.records.result import Result, value_text
from frostline.report.cells import Cell, repeats_typed
from frostline.report.command_line import command
from frostline.report.contest import Contender


def edges(key: str, found: Sequence[Contender], results: Sequence[Result], tuned: Sequence[str]) -> list[str]:
    """Return sentences on the contenders whose best lr lies at the edge of the grid, and a command that extends it.

    The command includes all finished runs, which are not run again, so that its verdict covers them, and both
    contenders, so that they keep the same budget. It has no lr at or above one with which a contender diverged, except
    a contender's best: a grid has each lr for both, so the sentence says where one will diverge again.
    """
    rivals = found if key != "lr" else found[:1]
    at: dict[tuple[str, int], list[Contender]] = {}
    for one in rivals:
        tried = sorted({*_lrs(key, one, results)})
        best = one.cell.choices.get("lr")
        if len(tried) > 1 and best in (tried[0], tried[-1]):
            at.setdefault(("larger" if best == tried[-1] else "smaller", len(tried)), []).append(one)
    parts = [_edge(key, side, tried, group) for (side, tried), group in at.items()]
    beyond = [lr for (side, _), group in at.items() for lr in _beyond(side, group)]
    limits = [_limit(key, one, results) for one in rivals]
    for one, limit in zip(rivals, limits, strict=True):
        if between := _below(limit, key, one, results):
            parts.append(_diverged(key, one, limit))
            beyond += between
    beyond = [lr for lr in beyond if lr < min(limits)]
    again = _extended(key, rivals, results, tuned, beyond, min(limits)) if beyond else None
    told = f"what is finished is not run again{_diverging(key, [one.value for one in rivals], rivals, results)}"
    return [*parts, *([f"To try more ({told}): `{again}`."] if again else [])]


def _extended(
    key: str,
    rivals: Sequence[Contender],
    results: Sequence[Result],
    tuned: Sequence[str],
    beyond: Sequence[float],
    limit: float,
) -> str | None:
    """Return the command of the sweep over the finished learning rates below `limit` and those `beyond` them."""
    best = [one.cell.choices.get("lr") for one in rivals]
    finished = [run for run in results if run.status == "FINISHED"]
    known = [lr for one in rivals for lr in _lrs(key, one, finished)]
    others = values_of([name for name in tuned if name != "lr"], [one.cell for one in rivals])
    grid = sorted({lr for lr in (*known, *beyond) if lr < limit or lr in best})
    values = [one.value for one in rivals]
    return command(
        rivals[0].cell.finished[0], {key: values, **others, "lr": grid, **repeats_typed([one.cell for one in rivals])}
    )


def _diverging(key: str, values: Sequence[object], best: Sequence[Contender], results: Sequence[Result]) -> str:
    """Return where one of the `values` will diverge again, with an lr that is the best of another contender."""
    by_lr = {one.cell.choices.get("lr"): one.value for one in best}
    lost = [(run.choices.get(key), run.choices.get("lr")) for run in results if trial_tags.diverged(run)]
    again = ((value, lr) for value, lr in dict.fromkeys(lost) if value in values and value != by_lr.get(lr, value))
    return "".join(
        f"; `{value_text(value)}` diverges again with lr {value_text(lr)}, the best of `{value_text(by_lr[lr])}`"
        for value, lr in again
    )


def smaller(key: str, values: Sequence[object], only: Contender, lost: Sequence[Result]) -> list[str]:
    """Return a sentence with a command after all `lost` runs diverged: the only contender against the other `values`.

    If these are learning rates, the command tries some between the best and the smallest that diverged; else smaller
    ones than that.
    """
    if key == "lr":
        return edges(key, [only], [*only.cell.results, *lost], ())
    if not (lrs := _lrs("lr", only, lost)):
        return []
    best = only.cell.choices.get("lr")
    grid = sorted({float(f"{min(lrs) / by:.1g}") for by in (3, 10)} | ({best} if best is not None else set()))
    again = command(only.cell.finished[0], {key: [only.value, *values], "lr": grid, **repeats_typed([only.cell])})
    told = _diverging(key, values, [only], lost).removeprefix("; ")
    return [f"To try smaller learning rates{f' ({told})' if told else ''}: `{again}`."] if again else []


def _limit(key: str, one: Contender, results: Sequence[Result]) -> float:
    """Return the smallest lr above the best with which a contender diverged; infinity if there is none."""
    best = one.cell.choices.get("lr", math.inf)
    lost = _lrs(key, one, filter(trial_tags.diverged, results))
    return min((lr for lr in lost if lr > best), default=math.inf)


def _below(limit: float, key: str, one: Contender, results: Sequence[Result]) -> list[float]:
    """Return learning rates between the best and the `limit` of a contender; empty if some were tried."""
    best = one.cell.choices.get("lr", math.inf)
    if limit == math.inf or any(best < lr < limit for lr in _lrs(key, one, results)):
        return []
    return [lr for lr in _beyond("larger", [one]) if lr < limit]


def _lrs(key: str, one: Contender, runs: Iterable[Result]) -> list[float]:
    """Return the learning rates of those of the `runs` that have `one`'s value of `key`; of all if that is the lr."""
    own = (run for run in runs if key == "lr" or run.choices.get(key) == one.value)
    return [lr for run in own if isinstance(lr := run.choices.get("lr"), float)]


def _edge(key: str, side: str, tried: int, group: Sequence[Contender]) -> str:
    """Return the sentence on contenders whose best lr lies at one edge; of only two values, each lies at an edge."""
    where = f"is the {side} of the two tried" if tried == 2 else "lies at the edge of the grid"
    return f"The best lr{_of(key, group)} {where}; {side} may be better still."


def _diverged(key: str, one: Contender, limit: float) -> str:
    """Return the sentence on a contender that diverged with the next larger lr."""
    best = value_text(one.cell.choices["lr"])
    return f"An lr{_of(key, [one])} between {best} and {value_text(limit)}, which diverged, may be better still."


def _of(key: str, group: Sequence[Contender]) -> str:
    return "" if key == "lr" else f" of {' and '.join(f'`{one.short}`' for one in group)}"


def _beyond(side: str, group: Sequence[Contender]) -> list[float]:
    """Return two learning rates beyond the best ones, by factors of about 3 and 10."""
    best = [one.cell.choices["lr"] for one in group]
    steps = (max(best) * 3, max(best) * 10) if side == "larger" else (min(best) / 3, min(best) / 10)
    return [float(f"{step:.1g}") for step in steps]


def values_of(names: Sequence[str], there: Sequence[Cell] | Sequence[Result]) -> dict[str, list[Any]]:
    """Return the distinct values of the choices `names` in cells or runs, without choices that none of them has."""
    values = {name: [one.choices[name] for one in there if name in one.choices] for name in names}
    return {name: list(dict.fromkeys(found)) for name, found in values.items() if found}
