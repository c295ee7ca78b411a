"""A study in which several searches have part: who carries a trial out, who confirms the best one, who is gone."""

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
"""Attributes of a study: who confirms a trial of it; when somebody last gave a sign of life."""


class Taken(Exception):
    """What a search wanted to do another one does, which lives."""


class Sharing:
    """What a search has of a study, and what others have of it; of a study that nobody shares it has all."""

    def __init__(self, study: optuna.Study, storage: Storage, sweep: Path | None) -> None:
        """Have part in a `study`, for the search in the folder of the `sweep`."""
        self.me = {**asdict(liveness.me()), "sweep": str(sweep), "search": uuid.uuid4().hex}
        self._study, self._storage = study, storage

    def goes_on_elsewhere(self, trial: FrozenTrial) -> bool:
        """Return whether somebody who lives carries a trial out, and not this search."""
        holder = trial.user_attrs.get(HOLDER, self.me)
        return not (trial.state in OVER or rests(trial) or holder == self.me or self._gone(holder))

    def take(self, number: int) -> Path | None:
        """Have a trial from now on, unless it is over; return the folder of the sweep that had it before, if another's.

        Raises `Taken` where somebody else was faster.
        """
        with self._storage.deciding():
            trial = self._study.get_trials(deepcopy=False)[number]
            if self.goes_on_elsewhere(trial):
                raise Taken
            return self.hold(trial)

    def hold(self, trial: FrozenTrial) -> Path | None:
        """Do what `take` does, within a block in which nobody else decides."""
        backend, holder = self._storage.backend, trial.user_attrs.get(HOLDER, self.me)
        if trial.state is TrialState.WAITING:  # as Optuna's dashboard leaves what a person wants to be tried
            backend.set_trial_state_values(trial._trial_id, TrialState.RUNNING)
        if trial.state not in OVER and self._storage.shared:
            backend.set_trial_user_attr(trial._trial_id, HOLDER, self.me)
        if is_left(trial):
            backend.set_trial_user_attr(trial._trial_id, LEFT, False)
        return None if holder["sweep"] == self.me["sweep"] else Path(holder["sweep"])

    def confirm(self, number: int) -> Path | None:
        """Have a trial, the best one, be confirmed by this search; or return the folder of the sweep that has done so.

        Raises `Taken` while another one does so.
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
        """Let others know that this search has confirmed a trial."""
        holder = self._study.user_attrs.get(f"{_CONFIRMS} {number}")
        if holder is not None and holder["search"] == self.me["search"]:
            self._study.set_user_attr(f"{_CONFIRMS} {number}", {**holder, "done": True})

    def alive(self) -> None:
        """Give a sign of life, for processes on other machines."""
        if self._storage.shared:
            self._study.set_user_attr(_sign(self.me), time.time())

    def _gone(self, holder: Mapping[str, Any]) -> bool:
        """Return whether a search is no more; one that this process carried out before is not."""
        owner = Owner(**{one.name: holder[one.name] for one in fields(Owner)})
        sign = self._study.user_attrs.get(_sign(holder), owner.started)
        return owner == liveness.me() or owner.gone(sign)


def _sign(holder: Mapping[str, Any]) -> str:
    """Return the attribute of a study in which a process gives signs of life."""
    return f"{_ALIVE} {holder['host']} {holder['pid']}"
