"""The rungs of a study: which of its trials wait, go on, or end where they wait, as its storage keeps it."""

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
    """The rungs of a study, if it has any: it is false without, and then no trial waits."""

    def __init__(
        self, trials: Callable[[], list[FrozenTrial]], storage: Storage, sharing: Sharing, rungs: Rungs | None
    ) -> None:
        """Decide on the `trials` of a study, as they are now, by number."""
        self._trials, self._storage, self._sharing, self._rungs = trials, storage, sharing, rungs

    def __bool__(self) -> bool:
        """Return whether trials wait at rungs."""
        return self._rungs is not None

    def judge(self, trial: FrozenTrial) -> Callable[[int, float], Decision]:
        """Do what `Rungs.judge` does."""
        assert self._rungs is not None
        return self._rungs.judge(trial)

    def promote(self, most: int) -> list[tuple[int, Path | None]]:
        """Have up to so many trials go on that wait; return their numbers, and in which sweep's folder if elsewhere.

        That is to be within a block that is `deciding`.
        """
        found: list[tuple[int, Path | None]] = []
        while self._rungs and len(found) < most and (trial := self._rungs.next_up(self._own())):
            found.append((trial.number, self._sharing.hold(trial)))
            self._storage.mark(trial, **{GOAL: self._rungs.above(trial)})
        return found

    def may_promote(self) -> bool:
        """Return whether a trial that waits is good enough to go on."""
        return self._rungs is not None and self._rungs.next_up(self._own()) is not None

    def conclude(self) -> bool:
        """Let what waits end where it is, as no trial will come there any more; return whether anything did wait.

        Where none is complete the foremost goes on first, for there to be one.
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
        """Return whether a trial that came to so many epochs has to wait before it may end."""
        trial = self._trials()[number]
        if self._rungs is None or STOPPED in trial.user_attrs:
            return False
        return self._rungs.goal(trial) <= min(epochs, self._rungs.epochs - 1)

    def pause(self, number: int, epochs: Sequence[float], spent: Spent) -> None:
        """Have a trial wait at the rung to which it came: `epochs` are its values, `spent` what it took."""
        trial = self._trials()[number]
        if self._rungs is not None and trial.state not in OVER:
            goal = self._rungs.goal(trial)
            self._storage.report(trial, epochs[:goal])
            self._storage.mark(trial, **asdict(spent.part(goal)), **{WAITS: goal})

    def waits(self, number: int) -> bool:
        """Return whether a trial waits."""
        return waits(self._trials()[number])

    def twin_of(self, number: int) -> int | None:
        """Return the trial before this one that has the same values, whose run is its own too; None where none has."""
        values = self._trials()[number].params
        same = (one.number for one in (self._own() if self._rungs else ()) if one.params == values)
        return next((other for other in same if other < number), None)

    def _own(self) -> list[FrozenTrial]:
        return trial_marks.own(self._trials())
