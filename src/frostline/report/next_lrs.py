"""Learning rates to try next: contenders whose best lr lies at the edge of the grid, and a command that extends it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from frostline.records.result import Result, value_text
from frostline.report.cells import Cell
from frostline.report.command_line import command
from frostline.report.contest import Contender


def edges(key: str, found: Sequence[Contender], results: Sequence[Result], tuned: Sequence[str]) -> list[str]:
    """Return sentences on the contenders whose best lr lies at the edge of the grid, and a command that extends it.

    The command includes all finished runs, which are not run again, so that its verdict covers them, and both
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
    others = {n: values for n in tuned if n != "lr" and (values := both(n, rivals[0].cell, rivals[-1].cell))}
    seeds = sorted({run.choices.get("seed") for one in rivals for run in one.cell.results}, key=repr)
    same = {"seed": seeds} if len(seeds) > 1 else {}
    grid = sorted({lr for lr in (*known, *beyond) if lr is not None})
    again = command(rivals[0].cell.finished[0], {**changes, **others, "lr": grid, **same})
    return [*parts, *([f"To try more (what is finished is not run again): `{again}`."] if again else [])]


def _tried_lr(run: Result, key: str, one: Contender) -> float | None:
    """Return the lr of a run with `one`'s value of `key`, whatever the status of the run; None for other runs."""
    lr = run.choices.get("lr")
    return lr if isinstance(lr, float) and (key == "lr" or run.choices.get(key) == one.value) else None


def _edge(key: str, side: str, tried: int, group: Sequence[Contender]) -> str:
    """Return the sentence on contenders whose best lr lies at one edge; of only two values, each lies at an edge."""
    names = " and ".join(f"`{value_text(one.value)}`" for one in group)
    of = "" if key == "lr" else f" of {names}"
    where = f"is the {side} of the two tried" if tried == 2 else "lies at the edge of the grid"
    return f"The best lr{of} {where}; {side} may be better still."


def _beyond(side: str, group: Sequence[Contender]) -> list[float]:
    """Return two learning rates beyond the best ones, by factors of about 3 and 10."""
    best = [one.cell.choices["lr"] for one in group]
    steps = (max(best) * 3, max(best) * 10) if side == "larger" else (min(best) / 3, min(best) / 10)
    return [float(f"{step:.1g}") for step in steps]


def both(name: str, first: Cell, second: Cell) -> list[Any]:
    """Return the distinct values of the choice `name` in two cells, of which some have no such choice."""
    values = [cell.choices[name] for cell in (first, second) if name in cell.choices]
    return list(dict.fromkeys(values))
