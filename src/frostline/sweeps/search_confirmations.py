"""The runs that confirm the best trial of each cell of a search on fresh seeds, once all its trials are over."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from frostline.records import layout, trial_tags
from frostline.sweeps.compose import PlannedRun
from frostline.sweeps.search_cells import Cell

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

LOOK = 1.0  # seconds between two looks at what others do that have part in a study
RunOf = Callable[[Cell, Mapping[str, str], str, Mapping[str, Any], Path | None], PlannedRun]
"""Returns a run of a cell: what is typed for it, its folder, its marks, and where another sweep lies that has it."""


def confirmations(cells: Iterable[Cell], run_of: RunOf) -> list[PlannedRun]:
    """Return the runs of the best trials on fresh seeds, once all trials are over; none where they are done.

    What others confirm is waited for, as it may come to nothing and be this sweep's then.
    """
    from frostline.sweeps.study_sharing import Taken

    waiting = [(cell, best) for cell in cells if (best := _unconfirmed(cell))]
    while waiting:
        found: list[PlannedRun] = []
        taken: list[tuple[Cell, FrozenTrial]] = []
        for cell, best in waiting:
            try:
                found += _confirm(cell, best, cell.study.sharing.confirm(best.number), run_of)
            except Taken:
                taken.append((cell, best))
        if found or not taken:
            return found
        waiting = taken
        time.sleep(LOOK)
    return []


def _unconfirmed(cell: Cell) -> FrozenTrial | None:
    """Return the best trial of a cell, once all are over, unless this sweep has what confirms it."""
    return cell.study.best() if cell.confirmed is None and cell.study.over() else None


def _confirm(cell: Cell, best: FrozenTrial, where: Path | None, run_of: RunOf) -> Iterator[PlannedRun]:
    """Yield the runs of the best trial of a cell on fresh seeds, which may be done `where` another sweep lies."""
    cell.confirmed = best.number
    for seed in range(cell.config.seed + 1, cell.config.seed + 1 + cell.config.search.confirm):
        setting = {**cell.at(best.params), "seed": str(seed), "search.prune": "none"}
        setting = {key: value for key, value in setting.items() if key not in ("+seed", "++seed")}
        folder = cell.folder(f"seed{seed}")
        if where is None or is_seen(where / folder):
            yield run_of(cell, setting, folder, {trial_tags.CONFIRMS: best.number}, where)


def is_seen(folder: Path) -> bool:
    """Return whether what a run came to can be read in its folder, which may be another machine's."""
    return (folder / layout.RESULT).is_file()
