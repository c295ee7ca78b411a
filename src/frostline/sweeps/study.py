"""The Optuna study of one cell, which draws trials and stores their results, by default in the sweep's folder.

Every trial has its own sampler, seeded by its number, so that a study suggests the same trials after a kill.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, Trial, TrialState

from frostline.core import notices
from frostline.core.config import Config
from frostline.core.objectives import Objective, several
from frostline.records.trial_tags import Decision, Judge
from frostline.sweeps import search_space
from frostline.sweeps.rungs import Rungs, StudyRungs, as_over
from frostline.sweeps.samplers import OF_COMPLETE, drawn_aside, given, pruner
from frostline.sweeps.search_budget import NO_COST, Spent
from frostline.sweeps.study_sharing import Sharing
from frostline.sweeps.study_storage import Storage, storage_of, wait_for
from frostline.sweeps.trial_marks import HOLDER, LEFT, OVER, PAST, is_left, rests, spent_of, waits

optuna.logging.set_verbosity(optuna.logging.ERROR)
_OBSERVED = "observed"
"""Attribute of a study: whether it has all the runs of earlier sweeps that it begins with."""
JUDGING: dict[tuple[Path, str], Study] = {}
"""Open studies for judging trials in this process, by the sweep's folder and the study's name."""


class Study:
    """Owner of one study in a storage, perhaps shared with other searches."""

    def __init__(
        self,
        storage: Storage,
        name: str,
        config: Config,
        space: Mapping[str, BaseDistribution],
        sweep: Path | None = None,
        most: int | None = None,
    ) -> None:
        """Open or create the study `name`, for runs with `config` except for the keys of `space`.

        The folders of the runs are in that of the `sweep`. Trials after the first `most`, which a command with a larger
        budget left, only teach the sampler. Raises ValueError if its study lacks values of a trial.
        """
        self._most = most
        self.name, self._search, self._space, self._storage = name, config.search, dict(space), storage
        self._pruner = pruner(config.search)
        self._objectives = objectives_of(config)
        self.deciding = storage.deciding
        """Lets no other process draw a trial within a block, so that the budget holds."""
        self._study = optuna.create_study(
            storage=storage.backend,
            study_name=name,
            directions=[one.direction for one in self._objectives],
            load_if_exists=True,
        )
        if not storage.shared and (odd := next(filter(self._lacks_values, self.trials()), None)) is not None:
            raise ValueError(f"trial {odd.number} is over, but lacks values")
        self.sharing = Sharing(self._study, storage, sweep)
        rungs = Rungs(config.epochs, self._objectives[0].sign, waiting=config.search.prune == "hyperband")
        self.rungs = StudyRungs(self.trials, self._own, storage, self.sharing, rungs)

    def trials(self) -> list[FrozenTrial]:
        """Return all trials, in the order of their numbers."""
        return self._study.get_trials(deepcopy=False)

    def ask(self) -> tuple[int, dict[str, Any]]:
        """Return the number and the values of a new trial."""
        backend, holder = self._storage.backend, {HOLDER: self.sharing.me} if self._storage.shared else {}
        asked = optuna.trial.create_trial(state=TrialState.RUNNING, user_attrs=holder)
        trial_id = backend.create_new_trial(backend.get_study_id_from_name(self.name), asked)
        number = backend.get_trial_number_from_id(trial_id)
        return number, self._drawn(number)

    def _drawn(self, number: int) -> dict[str, Any]:
        """Draw the values of an existing trial, given all results so far.

        They are drawn outside of the storage and then written one by one: after a kill, the next process draws the
        same.
        """
        trial_id, told = self.trials()[number]._trial_id, (one for one in self.trials() if one.number != number)
        others = [as_over(one, complete=self._search.name in OF_COMPLETE) if waits(one) else one for one in told]
        aside = drawn_aside(self._search, self._study.directions, others, self._space, number)
        for name, value in aside.system_attrs.items():  # the state of samplers
            self._storage.backend.set_trial_system_attr(trial_id, name, value)
        self._study.sampler = given(aside.params)
        trial = Trial(self._study, trial_id)
        return {key: search_space.suggest(trial, key, values) for key, values in self._space.items()}

    def observe(self, runs: Sequence[tuple[Mapping[str, Any], Sequence[float], str]]) -> None:
        """Add runs of earlier sweeps, as values, results and names, to a new study."""
        with self._storage.deciding():
            if self._study.user_attrs.get(_OBSERVED) or self._own():
                return
            known = self.observed()  # of a process that was killed while it added them
            for values, results, name in [run for run in runs if run[2] not in known]:
                facts: dict[str, Any] = {"params": dict(values), "distributions": self._space}
                self._study.add_trial(optuna.trial.create_trial(values=results, user_attrs={PAST: name}, **facts))
            self._study.set_user_attr(_OBSERVED, True)

    def observed(self) -> list[str]:
        """Return the names of the runs of earlier sweeps that the study began with."""
        return [trial.user_attrs[PAST] for trial in self.trials() if PAST in trial.user_attrs]

    def numbers(self) -> list[int]:
        """Return the numbers of the trials that this search may take into its sweep.

        These are all but those that wait at a rung, those that another live search is running, and those without
        values, which a user ended in a shared study.
        """
        others = (waits, self.sharing.goes_on_elsewhere, self._lacks_values)
        return [one.number for one in self._own() if not any(is_other(one) for is_other in others)]

    def is_waited_for(self) -> bool:
        """Return whether another search is running a trial of the study."""
        return any(map(self.sharing.goes_on_elsewhere, self._own()))

    def _own(self) -> list[FrozenTrial]:
        """Return the study's own trials within the budget, in the order of their numbers, without observations."""
        return [trial for trial in self.trials() if PAST not in trial.user_attrs][: self._most]

    def _lacks_values(self, trial: FrozenTrial) -> bool:
        return trial.state in OVER and not self._space.keys() <= trial.params.keys()

    def asked(self, number: int) -> dict[str, Any]:
        """Return the values of an existing trial; values that are missing after a kill are drawn."""
        frozen = self.trials()[number]
        if frozen.params.keys() == self._space.keys():
            return {key: frozen.params[key] for key in self._space}
        return self._drawn(number)

    def tell(
        self,
        number: int,
        values: Sequence[float] | None,
        state: TrialState,
        epochs: Sequence[float] = (),
        spent: Spent = NO_COST,
    ) -> None:
        """Write the result of a trial, unless it has one: a value for each objective, and the cost.

        `epochs` are the values after each epoch, for pruners.
        """
        frozen = self.trials()[number]
        if frozen.state not in OVER:
            self._storage.mark(frozen, asdict(spent))
            self._storage.report(frozen, epochs)
            self._study.tell(number, values, state)

    def tell_as(self, number: int, other: int) -> bool:
        """Copy the result of another trial with the same values; return whether that one is over, waits or was left."""
        like = self.trials()[other]
        if is_left(like):
            self.leave(number, NO_COST)
        elif like.state in OVER or waits(like):
            state, values = (like.state, like.values) if like.state in OVER else (TrialState.PRUNED, None)
            self.tell(number, values, state, [*like.intermediate_values.values()], spent_of(like))
        return rests(like) or like.state in OVER

    def leave(self, number: int, spent: Spent) -> None:
        """Release a trial whose run failed for reasons other than its values, with its cost, for any search to take."""
        frozen = self.trials()[number]
        if frozen.state not in OVER:
            self._storage.mark(frozen, {**asdict(spent), LEFT: True})

    def spent(self) -> list[Spent | None]:
        """Return the cost of each trial, in the order of their numbers; None for running trials."""
        return [spent_of(one) if rests(one) or one.state in OVER else None for one in self._own()]

    def has_result(self, number: int) -> bool:
        """Return whether a trial has a result."""
        return self.trials()[number].state in OVER

    def over(self) -> bool:
        """Return whether every trial has a result or was left."""
        return all(trial.state in OVER or is_left(trial) for trial in self._own())

    def best(self) -> FrozenTrial | None:
        """Return the best complete trial; None if there is none.

        For several objectives it is the one on the Pareto front that is best by the first objective.
        """
        signs = [one.sign for one in self._objectives]

        def rank(trial: FrozenTrial) -> tuple[float, ...]:
            return (*(sign * value for sign, value in zip(signs, trial.values, strict=True)), -trial.number)

        done = [trial for trial in self._own() if trial.state is TrialState.COMPLETE]
        return max(done, key=rank, default=None)

    def judge(self, number: int) -> Judge:
        """Return the judge of a trial, which waits for a storage that is lost."""
        judge = self._storage.patiently(lambda: self._judge(number))
        return lambda epoch, value: self._storage.patiently(lambda: judge(epoch, value))

    def _judge(self, number: int) -> Judge:
        frozen = self.trials()[number]
        if self._search.prune == "hyperband":
            return self.rungs.judge(frozen)

        def decision(epoch: int, value: float) -> Decision:
            if epoch not in self.trials()[number].intermediate_values:
                self._storage.backend.set_trial_intermediate_value(frozen._trial_id, epoch, float(value))
            stops = self._pruner.prune(self._study, self.trials()[number])
            return Decision.STOP if stops else Decision.CONTINUE

        return decision


def objectives_of(config: Config) -> list[Objective]:
    """Return the objectives of a search, one or several."""
    return several(config.search.objective or [config.select])


def judge_of(config: Config, sweep: Path, name: str, number: int) -> Judge:
    """Return the function that judges a trial after each epoch, given its number and the name of its study.

    The study stays open for the next trial in this process, since opening it takes longer the more trials it has.
    """
    if (sweep, name) not in JUDGING:
        if "://" in (config.search.storage or ""):
            wait_for(str(config.search.storage), notices.tell)
        JUDGING[sweep, name] = Study(storage_of(config.search, sweep), name, config, {})
    return JUDGING[sweep, name].judge(number)
