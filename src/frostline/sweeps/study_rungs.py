"""The rungs of a study: its trials wait, are promoted, or stop at their rung, as marked in its storage."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from optuna.trial import FrozenTrial, TrialState

from frostline.records.trial_tags import Decision
from frostline.sweeps import trial_marks
from frostline.sweeps.rungs import Rungs
from frostline.sweeps.search_budget import Spent
from frostline.sweeps.study_sharing import Sharing
from frostline.sweeps.study_storage import Storage
from frostline.sweeps.trial_marks import GOAL, OVER, STOPPED, WAITS, rests, waits


class StudyRungs:
    """The rungs of a study; false for a study without rungs, in which no trial waits."""

    def __init__(
        self, trials: Callable[[], list[FrozenTrial]], storage: Storage, sharing: Sharing, rungs: Rungs | None
    ) -> None:
        """Decide about the trials of a study; `trials` returns their present state, in the order of their numbers."""
        self._trials, self._storage, self._sharing, self._rungs = trials, storage, sharing, rungs

    def __bool__(self) -> bool:
        """Return whether trials wait at rungs."""
        return self._rungs is not None

    def judge(self, trial: FrozenTrial) -> Callable[[int, float], Decision]:
        """Return the function of `Rungs.judge` for a trial."""
        assert self._rungs is not None
        return self._rungs.judge(trial)

    def promote(self, most: int) -> list[tuple[int, Path | None]]:
        """Promote up to `most` waiting trials; return their numbers, with the folder of their sweep if it is another.

        Call it within `deciding`.
        """
        found: list[tuple[int, Path | None]] = []
        while self._rungs and len(found) < most and (trial := self._rungs.next_up(self._own())):
            found.append((trial.number, self._sharing.hold(trial)))
            self._storage.mark(trial, **{GOAL: self._rungs.above(trial)})
        return found

    def may_promote(self) -> bool:
        """Return whether a waiting trial is good enough to be promoted."""
        return self._rungs is not None and self._rungs.next_up(self._own()) is not None

    def conclude(self) -> bool:
        """Stop waiting trials at their rungs, since no further trial will come; return whether any was waiting.

        If no trial is complete, promote the best waiting one instead, so that there will be a complete one.
        """
        with self._storage.deciding():
            own = self._own()
            if self._rungs is None or any(not (one.state in OVER or rests(one)) for one in own):
                return False
            complete = any(trial.state is TrialState.COMPLETE for trial in own)
            if not complete and (foremost := self._rungs.next_up(own, reduction=1)):
                self._storage.mark(foremost, **{GOAL: self._rungs.above(foremost)})
                return True
            waiting = [trial for trial in own if waits(trial)]
            for trial in waiting:
                self._storage.mark(trial, **{STOPPED: self._rungs.goal(trial)})
            return bool(waiting)

    def pauses(self, number: int, epochs: int) -> bool:
        """Return whether a trial after `epochs` epochs has to wait at a rung."""
        trial = self._trials()[number]
        if self._rungs is None or STOPPED in trial.user_attrs:
            return False
        return self._rungs.goal(trial) <= min(epochs, self._rungs.epochs - 1)

    def pause(self, number: int, epochs: Sequence[float], spent: Spent) -> None:
        """Let a trial wait at its rung: `epochs` are its values after each epoch, `spent` is its cost."""
        trial = self._trials()[number]
        if self._rungs is not None and trial.state not in OVER:
            goal = self._rungs.goal(trial)
            self._storage.report(trial, epochs[:goal])
            self._storage.mark(trial, **asdict(spent.part(goal)), **{WAITS: goal})

    def waits(self, number: int) -> bool:
        """Return whether a trial waits."""
        return waits(self._trials()[number])

    def twin_of(self, number: int) -> int | None:
        """Return the earlier trial with the same values, whose run serves for both; None if there is none."""
        values = self._trials()[number].params
        same = (one.number for one in (self._own() if self._rungs else ()) if one.params == values)
        return next((other for other in same if other < number), None)

    def _own(self) -> list[FrozenTrial]:
        return trial_marks.own(self._trials())
