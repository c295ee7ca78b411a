"""Confirm the best trial of each cell of a search with runs on fresh seeds, after all its trials."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from optuna.trial import FrozenTrial

from frostline.records import layout, trial_tags
from frostline.sweeps.compose import PlannedRun
from frostline.sweeps.search_cells import SearchCell
from frostline.sweeps.study_sharing import Taken

LOOK = 1.0  # seconds between two looks at other searches in a shared study


def confirmations(cells: Iterable[SearchCell]) -> list[PlannedRun]:
    """Return the runs of the best trials on fresh seeds, for cells whose trials are over; none if all are confirmed.

    Waits for confirmations by other searches, which this sweep takes over if they die.
    """
    waiting = [(cell, best) for cell in cells if (best := _unconfirmed(cell))]
    while waiting:
        found: list[PlannedRun] = []
        taken: list[tuple[SearchCell, FrozenTrial]] = []
        for cell, best in waiting:
            try:
                found += _confirm(cell, best, cell.study.sharing.confirm(best.number))
            except Taken:
                taken.append((cell, best))
        if found or not taken:
            return found
        waiting = taken
        time.sleep(LOOK)
    return []


def _unconfirmed(cell: SearchCell) -> FrozenTrial | None:
    """Return the best trial of a cell whose trials are over, unless this sweep has confirmed it; else None."""
    return cell.study.best() if cell.confirmed is None and cell.study.over() else None


def _confirm(cell: SearchCell, best: FrozenTrial, where: Path | None) -> Iterator[PlannedRun]:
    """Yield the runs of the best trial of a cell on fresh seeds; another sweep in `where` may have finished them."""
    cell.confirmed = best.number
    for seed in range(cell.config.seed + 1, cell.config.seed + 1 + cell.config.search.confirm):
        setting = {**cell.at(best.params), "seed": str(seed), "search.prune": "none"}
        setting = {key: value for key, value in setting.items() if key not in ("+seed", "++seed")}
        folder = cell.folder(f"seed{seed}")
        if where is None or is_seen(where / folder):
            yield cell.run(setting, folder, {trial_tags.CONFIRMS: best.number}, where)


def is_seen(folder: Path) -> bool:
    """Return whether a run's result is readable here; its folder may be on another machine."""
    return (folder / layout.RESULT).is_file()
