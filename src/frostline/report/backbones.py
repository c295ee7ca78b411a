"""The grid of backbones by freeze modes: gains of a mode on each backbone, and of a backbone with each mode."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from frostline.core.metrics import Metric
from frostline.report.cell_intervals import compare_cells, repeats
from frostline.report.cells import Cell, cells, finalists
from frostline.report.contest import Contest
from frostline.report.paired_difference import Difference

_NAMES = 3  # of backbones or freeze modes in a sentence


@dataclass(frozen=True)
class Grid:
    """The best cell, by validation, of each pair of a backbone and a freeze mode."""

    models: tuple[str, ...]
    """Best first, by validation."""
    modes: tuple[str, ...]
    """Best first, by validation."""
    cells: Mapping[tuple[str, str], Cell]
    """By model and mode; pairs without a finished run are missing."""

    def of_modes(self, model: str) -> Difference | None:
        """Return the gain of the first mode over the second on a backbone; None where one of them is missing."""
        return self._difference((model, self.modes[0]), (model, self.modes[1]))

    def of_models(self, mode: str) -> Difference | None:
        """Return the gain of the first backbone over the second with a mode; None where one of them is missing."""
        return self._difference((self.models[0], mode), (self.models[1], mode))

    def _difference(self, first: tuple[str, str], second: tuple[str, str]) -> Difference | None:
        there = first in self.cells and second in self.cells
        return compare_cells(self.cells[first], self.cells[second]) if there else None


def grid(contest: Contest) -> Grid | None:
    """Return the grid of a contest between freeze modes; None where fewer than two of either finished."""
    if contest.key != "freeze_mode":
        return None
    best: dict[tuple[str, str], Cell] = {}
    for cell in finalists(cells(contest.results)):  # best first
        if repeats(cell):
            best.setdefault((str(cell.choices.get("model")), str(cell.choices.get("freeze_mode"))), cell)
    models, modes = (tuple(dict.fromkeys(pair[axis] for pair in best)) for axis in (0, 1))
    return Grid(models, modes, best) if len(models) > 1 and len(modes) > 1 else None


def sentences(contest: Contest, digits: int) -> list[str]:
    """Return sentences on the best pair, the gain of a mode on each backbone, and of a backbone with each mode."""
    pairs, by = grid(contest), contest.by
    if pairs is None:
        return []
    model, mode = next(iter(pairs.cells))
    unit = " in points" if by.share else ""
    (one, two), (first, second) = pairs.modes[:2], pairs.models[:2]

    def each(named: str, gaps: Iterable[tuple[str, Difference | None]]) -> list[str]:
        known = [f"{difference_text(gap, by, digits)} {name}" for name, gap in gaps if gap]
        more = f" and {len(known) - _NAMES} more in the report" if len(known) > _NAMES else ""
        return [f"{named}{unit}: {', '.join(known[:_NAMES])}{more}."] if known else []

    return [
        f"Best pair on validation: `{mode}` on `{model}`.",
        *each(f"`{one}` against `{two}`", ((f"on {name}", pairs.of_modes(name)) for name in pairs.models)),
        *each(f"`{first}` against `{second}`", ((f"with {name}", pairs.of_models(name)) for name in pairs.modes)),
    ]


def difference_text(found: Difference | None, by: Metric, digits: int = 1) -> str:
    """Return a difference with its interval, without a unit, e.g. `+1.0 (-2.0 to 4.5)`; a dash for None."""
    if found is None:
        return "-"
    within = f" ({by.span(found.interval.low, found.interval.high, digits)})" if found.interval else ""
    return by.gap(found.gap, digits).removesuffix(" points") + within
