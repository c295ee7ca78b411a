"""Rungs of asynchronous Hyperband, ASHA (Li et al. 2020, arXiv:1810.05934): where trials wait and which are promoted.

There is one bracket, the most aggressive one of Hyperband, the default of Ray Tune's `AsyncHyperBandScheduler`, too. A
rung is an epoch, the 1st, 3rd, 9th and so on, as long as a full trial has at least three times as many. A trial waits
at each rung until it is among the best third of all trials that reached it, and then continues to the next. So bad
trials cost little, and a trial that looked bad among few is judged again among many.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from optuna.trial import FrozenTrial, TrialState

from frostline.records.trial_tags import Decision, Judge
from frostline.sweeps.search_budget import Spent
from frostline.sweeps.study_sharing import Sharing
from frostline.sweeps.study_storage import Storage
from frostline.sweeps.trial_marks import GOAL, OVER, STOPPED, WAITS, rests, waits

REDUCTION = 3
"""One of so many trials is promoted at a rung: 3 or 4 in Hyperband (section 2.6 of arXiv:1603.06560) and successors."""


@dataclass(frozen=True)
class Rungs:
    """The rungs of trials of `epochs` epochs; `sign` is 1 if higher values are better, else -1."""

    epochs: int
    sign: int
    waiting: bool
    """Whether trials wait at rungs below the last epoch."""

    @property
    def heights(self) -> list[int]:
        """The epochs after which a trial waits, and the last epoch."""
        heights = [1] if self.waiting else [self.epochs]
        while heights[-1] * REDUCTION <= self.epochs:
            heights.append(heights[-1] * REDUCTION)
        return [*heights[:-1], self.epochs]

    def goal(self, trial: FrozenTrial) -> int:
        """Return the epoch after which a trial stops or waits next."""
        return int(trial.user_attrs.get(STOPPED) or trial.user_attrs.get(GOAL) or self.heights[0])

    def above(self, trial: FrozenTrial) -> int:
        """Return the rung above the one at which a trial waits."""
        return next(height for height in self.heights if height > self.goal(trial))

    def next_up(self, trials: Sequence[FrozenTrial], reduction: int = REDUCTION) -> FrozenTrial | None:
        """Return the waiting trial to promote next: the best one on the highest rung; None if none is good enough.

        One of `reduction` trials that reached a rung may be promoted.
        """
        first = {frozenset(one.params.items()): one for one in reversed(trials)}  # a later one may have the same values
        for height in reversed(self.heights[:-1]):
            ranked = self._ranked(first.values(), height)
            for trial in ranked[: len(ranked) // reduction]:
                if waits(trial) and self.goal(trial) == height:
                    return trial
        return None

    def _ranked(self, trials: Collection[FrozenTrial], height: int) -> list[FrozenTrial]:
        """Return the trials that reached a rung, best first."""

        def rank(trial: FrozenTrial) -> tuple[float, int]:
            value = self.sign * trial.intermediate_values[height]
            return (math.inf if math.isnan(value) else -value, trial.number)

        return sorted((one for one in trials if height in one.intermediate_values), key=rank)


def as_over(trial: FrozenTrial, *, complete: bool) -> FrozenTrial:
    """Return a copy of a waiting trial that ended at its rung, for samplers to learn from: pruned, or `complete`.

    `complete` is for samplers that ignore pruned trials; the value is that at the rung.
    """
    over, last = copy.copy(trial), trial.intermediate_values[trial.user_attrs[WAITS]]
    over.state = TrialState.PRUNED
    if complete and math.isfinite(last):
        over.state, over.value = TrialState.COMPLETE, last
    return over


class StudyRungs:
    """The rungs of a study, as marked in its storage."""

    def __init__(
        self,
        trials: Callable[[], list[FrozenTrial]],
        own: Callable[[], list[FrozenTrial]],
        storage: Storage,
        sharing: Sharing,
        rungs: Rungs,
    ) -> None:
        """Decide about the trials of a study; `trials` returns their present state, in the order of their numbers.

        `own` returns those among them that compete with each other.
        """
        self._trials, self._own, self._storage, self._sharing, self._rungs = trials, own, storage, sharing, rungs

    def judge(self, trial: FrozenTrial) -> Judge:
        """Return the judge of a trial, which ends or waits at its goal."""
        goal, ends = self._rungs.goal(trial), Decision.STOP if STOPPED in trial.user_attrs else Decision.PAUSE
        return lambda epoch, value: ends if epoch >= goal else Decision.CONTINUE

    def promote(self, most: int) -> list[tuple[int, Path | None]]:
        """Promote up to `most` waiting trials; return their numbers, with the folder of their sweep if it is another.

        Call it within `deciding`.
        """
        found: list[tuple[int, Path | None]] = []
        while len(found) < most and (trial := self._rungs.next_up(self._own())):
            found.append((trial.number, self._sharing.hold(trial)))
            self._storage.mark(trial, {GOAL: self._rungs.above(trial)})
        return found

    def may_promote(self) -> bool:
        """Return whether a waiting trial is good enough to be promoted."""
        return self._rungs.next_up(self._own()) is not None

    def conclude(self) -> bool:
        """Stop waiting trials at their rungs, since no further trial will come; return whether any was waiting.

        If no trial is complete, promote the best waiting one instead, so that there will be a complete one.
        """
        with self._storage.deciding():
            own = self._own()
            if any(not (one.state in OVER or rests(one)) for one in own):
                return False
            complete = any(trial.state is TrialState.COMPLETE for trial in own)
            if not complete and (foremost := self._rungs.next_up(own, reduction=1)):
                self._storage.mark(foremost, {GOAL: self._rungs.above(foremost)})
                return True
            waiting = [trial for trial in own if waits(trial)]
            for trial in waiting:
                self._storage.mark(trial, {STOPPED: self._rungs.goal(trial)})
            return bool(waiting)

    def pauses(self, number: int, epochs: int) -> bool:
        """Return whether a trial after `epochs` epochs has to wait at a rung."""
        trial = self._trials()[number]
        return STOPPED not in trial.user_attrs and self._rungs.goal(trial) <= min(epochs, self._rungs.epochs - 1)

    def pause(self, number: int, epochs: Sequence[float], spent: Spent) -> None:
        """Let a trial wait at its rung: `epochs` are its values after each epoch, `spent` is its cost."""
        trial = self._trials()[number]
        if trial.state not in OVER:
            goal = self._rungs.goal(trial)
            self._storage.report(trial, epochs[:goal])
            self._storage.mark(trial, {**asdict(spent.part(goal)), WAITS: goal})

    def waits(self, number: int) -> bool:
        """Return whether a trial waits."""
        return waits(self._trials()[number])

    def twin_of(self, number: int) -> int | None:
        """Return the earlier trial with the same values, whose run serves for both; None if there is none."""
        values = self._trials()[number].params
        same = (one.number for one in (self._own() if self._rungs.waiting else ()) if one.params == values)
        return next((other for other in same if other < number), None)
