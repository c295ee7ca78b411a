"""Studies shared by several searches: which search runs a trial, which one confirms the best, and which are gone."""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from frostline.records import liveness
from frostline.records.liveness import Owner
from frostline.sweeps.study_storage import Storage
from frostline.sweeps.trial_marks import HOLDER, LEFT, OVER, is_left, rests

_CONFIRMS, _ALIVE = "confirms", "alive"
"""Prefixes of a study's attributes: the search that confirms a trial; the last sign of life of a process."""


class Taken(Exception):
    """Another live search already does this."""


class Sharing:
    """The share of one search in a study; a study that is not shared belongs to it alone."""

    def __init__(self, study: optuna.Study, storage: Storage, sweep: Path | None) -> None:
        """Take part in a `study`, for the search in the folder of the `sweep`."""
        self.me = {**asdict(liveness.this_process()), "sweep": str(sweep), "search": uuid.uuid4().hex}
        self._study, self._storage = study, storage

    def goes_on_elsewhere(self, trial: FrozenTrial) -> bool:
        """Return whether another live search is running a trial."""
        holder = trial.user_attrs.get(HOLDER, self.me)
        return not (trial.state in OVER or rests(trial) or holder == self.me or self._gone(holder))

    def take(self, number: int) -> Path | None:
        """Take a trial, unless it is over; return the folder of the sweep that had it before, if that was another.

        Raises `Taken` if another live search has it.
        """
        with self._storage.deciding():
            trial = self._study.get_trials(deepcopy=False)[number]
            if self.goes_on_elsewhere(trial):
                raise Taken
            return self.hold(trial)

    def hold(self, trial: FrozenTrial) -> Path | None:
        """Take a trial as `take` does; call it within `deciding`."""
        holder = trial.user_attrs.get(HOLDER, self.me)
        if trial.state is TrialState.WAITING:  # a trial that a user enqueued, e.g. in Optuna's dashboard
            self._storage.backend.set_trial_state_values(trial._trial_id, TrialState.RUNNING)
        if trial.state not in OVER and self._storage.shared:
            self._storage.mark(trial, {HOLDER: self.me})
        if is_left(trial):
            self._storage.mark(trial, {LEFT: False})
        return None if holder["sweep"] == self.me["sweep"] else Path(holder["sweep"])

    def confirm(self, number: int) -> Path | None:
        """Reserve the confirmation of the best trial and return None, or the folder of the sweep that has confirmed it.

        Raises `Taken` while another live search is confirming it.
        """
        if not self._storage.shared:
            return None
        with self._storage.deciding():
            holder = self._study.user_attrs.get(f"{_CONFIRMS} {number}")
            if holder is None or (not holder["done"] and self._gone(holder)):
                self._study.set_user_attr(f"{_CONFIRMS} {number}", {**self.me, "done": False})
                return None
        if holder["sweep"] == self.me["sweep"]:
            return None
        if not holder["done"]:
            raise Taken
        return Path(holder["sweep"])

    def confirmed(self, number: int) -> None:
        """Mark a trial as confirmed by this search."""
        holder = self._study.user_attrs.get(f"{_CONFIRMS} {number}")
        if holder is not None and holder["search"] == self.me["search"]:
            self._study.set_user_attr(f"{_CONFIRMS} {number}", {**holder, "done": True})

    def alive(self) -> None:
        """Give a sign of life, for processes on other machines."""
        if self._storage.shared:
            self._study.set_user_attr(_sign(self.me), time.time())

    def _gone(self, holder: Mapping[str, Any]) -> bool:
        """Return whether a search's process is gone; an earlier search of this process counts as gone, too."""
        owner = Owner(**{one.name: holder[one.name] for one in fields(Owner)})
        sign = self._study.user_attrs.get(_sign(holder), owner.started)
        return owner == liveness.this_process() or owner.gone(sign)


def _sign(holder: Mapping[str, Any]) -> str:
    """Return the name of a study's attribute for the signs of life of a process."""
    return f"{_ALIVE} {holder['host']} {holder['pid']}"
