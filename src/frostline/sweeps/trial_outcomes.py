"""Report the outcomes of trials to their study."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from optuna.trial import TrialState

from frostline.core.metrics import METRICS
from frostline.core.objectives import Objective
from frostline.records import journal, trial_tags
from frostline.records.result import PRUNED, Result
from frostline.sweeps.search_budget import Spent
from frostline.sweeps.search_cells import SearchCell
from frostline.sweeps.study import objectives_of


def tell(cell: SearchCell, number: int, result: Result) -> None:
    """Report the result of a trial to its study, or that the trial waits at a rung.

    A trial that diverged is pruned without a value, which samplers rank below all others. A trial that failed otherwise
    is left, so that the same command runs it again, as in a grid. A trial that an earlier search had trained further
    still waits at the rungs, so that the search draws the same trials.
    """
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
    """Return the values and the state of a trial, given its run's result; None as state if it is not over."""
    if result.status == "FINISHED":
        if PRUNED in result.metrics:
            return None, TrialState.PRUNED
        values = [result.metrics.get(one.metric, math.nan) for one in objectives]
        return (values, TrialState.COMPLETE) if all(map(math.isfinite, values)) else (None, TrialState.FAIL)
    if result.status == "FAILED":
        return None, TrialState.PRUNED if trial_tags.tells_a_search(result) else None
    return None, None


def tells(result: Result) -> bool:
    """Return whether a search learns from a run; after a round without such a run, further rounds are pointless."""
    return result.status in ("FINISHED", "PAUSED") or trial_tags.tells_a_search(result)
