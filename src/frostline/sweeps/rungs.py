"""Rungs of asynchronous Hyperband, ASHA (Li et al. 2020, arXiv:1810.05934): where trials wait, and who goes on.

Of Hyperband's brackets there is the one that stops most, as in Ray Tune's `AsyncHyperBandScheduler` unless it is told
otherwise. A rung is an epoch, the 1st, 3rd, 9th and so on, as long as a trial in full has three times as many. A trial
waits at each, and goes on to the next when it is among the best third of all that came to it, whenever that is. So what
looked bad at first costs little, and what was good when few were there is judged again when there are many.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from optuna.trial import FrozenTrial, TrialState

from frostline.records.trial_tags import Decision
from frostline.sweeps.trial_marks import GOAL, STOPPED, WAITS, waits

REDUCTION = 3
"""One trial of so many goes on at a rung: 3 or 4 in Hyperband (section 2.6 of arXiv:1603.06560) and its successors."""


@dataclass(frozen=True)
class Rungs:
    """Where trials of so many `epochs` wait; more of what is compared is better where the `sign` is 1."""

    epochs: int
    sign: int

    @property
    def heights(self) -> list[int]:
        """The epochs after which a trial waits, and the last one of all."""
        heights = [1]
        while heights[-1] * REDUCTION <= self.epochs:
            heights.append(heights[-1] * REDUCTION)
        return [*heights[:-1], self.epochs]

    def goal(self, trial: FrozenTrial) -> int:
        """Return the epoch after which a trial ends for now: where it is to stop, or the next rung."""
        return int(trial.user_attrs.get(STOPPED) or trial.user_attrs.get(GOAL) or self.heights[0])

    def above(self, trial: FrozenTrial) -> int:
        """Return the rung behind the one at which a trial waits."""
        return next(height for height in self.heights if height > self.goal(trial))

    def judge(self, trial: FrozenTrial) -> Callable[[int, float], Decision]:
        """Return what is told each epoch of a trial with its value, and says whether it goes on there."""
        goal, ends = self.goal(trial), Decision.STOP if STOPPED in trial.user_attrs else Decision.PAUSE
        return lambda epoch, value: ends if epoch >= goal else Decision.CONTINUE

    def next_up(self, trials: Sequence[FrozenTrial], reduction: int = REDUCTION) -> FrozenTrial | None:
        """Return the trial of those that wait which goes on first: on the highest rung, and of these the best.

        Of `reduction` trials that came to a rung one may go on.
        """
        first = _first_of_values(trials)
        for height in reversed(self.heights[:-1]):
            ranked = self._ranked(first, height)
            for trial in ranked[: len(ranked) // reduction]:
                if waits(trial) and self.goal(trial) == height:
                    return trial
        return None

    def _ranked(self, trials: Collection[FrozenTrial], height: int) -> list[FrozenTrial]:
        """Return the trials that came to a rung, the best first."""

        def rank(trial: FrozenTrial) -> tuple[float, int]:
            value = self.sign * trial.intermediate_values[height]
            return (math.inf if math.isnan(value) else -value, trial.number)

        return sorted((one for one in trials if height in one.intermediate_values), key=rank)


def _first_of_values(trials: Sequence[FrozenTrial]) -> Collection[FrozenTrial]:
    """Return the trials without those that have the values of one before them."""
    return {frozenset(one.params.items()): one for one in reversed(trials)}.values()


def as_over(trial: FrozenTrial, *, complete: bool) -> FrozenTrial:
    """Return a trial that waits as one that ended there, as which samplers learn from it: stopped, or `complete`.

    The latter is for those that learn from nothing else; its value is that of the rung.
    """
    over, last = copy.copy(trial), trial.intermediate_values[trial.user_attrs[WAITS]]
    over.state = TrialState.PRUNED
    if complete and math.isfinite(last):
        over.state, over.value = TrialState.COMPLETE, last
    return over
