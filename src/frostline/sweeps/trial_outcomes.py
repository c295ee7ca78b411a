"""What a trial's run came to, as a study is told."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from frostline.core.metrics import METRICS
from frostline.records import journal, trial_tags
from frostline.records.result import PRUNED, Result
from frostline.sweeps.search_budget import Spent
from frostline.sweeps.search_cells import Cell

if TYPE_CHECKING:
    from optuna.trial import TrialState

    from frostline.core.objectives import Objective


def tell(cell: Cell, number: int, result: Result) -> None:
    """Tell a study what came of a trial, if it is over, or that it waits at a rung.

    One that diverged is told as stopped early, without a value, which samplers take for worse than any other. One that
    failed otherwise is left, so that it is run again when the command is typed again, as in a grid. One that an earlier
    search had carried further waits at the rungs even so, for the same trials to come.
    """
    from frostline.sweeps.study import objectives_of

    study, spent = cell.study, Spent.of(result)
    values, state = outcome(result, objectives_of(cell.config))
    by, matter = METRICS[cell.config.select], cell.config.search.prune != "none"
    epochs = [line[by.epoch] for line in journal.epochs(Path(result.folder)) if by.epoch in line] if matter else []
    if result.status in ("PAUSED", "FINISHED") and study.rungs.pauses(number, len(epochs)):
        study.rungs.pause(number, epochs, spent)
    elif state is not None:
        study.tell(number, values, state, epochs, spent)
    elif result.status == "FAILED":
        study.leave(number, spent)


def outcome(result: Result, objectives: Sequence[Objective]) -> tuple[list[float] | None, TrialState | None]:
    """Return the values and the state of a trial, given its run; None for one that is not over."""
    from optuna.trial import TrialState

    if result.status == "FINISHED":
        if PRUNED in result.metrics:
            return None, TrialState.PRUNED
        values = [result.metrics.get(one.metric, math.nan) for one in objectives]
        return (values, TrialState.COMPLETE) if all(map(math.isfinite, values)) else (None, TrialState.FAIL)
    if result.status == "FAILED":
        return None, TrialState.PRUNED if trial_tags.tells_a_search(result) else None
    return None, None


def tells(result: Result) -> bool:
    """Return whether anything is learnt from a run: where none of a round did so, the next one would not either."""
    return result.status in ("FINISHED", "PAUSED") or trial_tags.tells_a_search(result)
