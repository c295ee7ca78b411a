"""Optuna's samplers, which suggest the values of trials, and pruners, which stop trials early."""

from __future__ import annotations

import inspect
from collections.abc import Container, Iterable, Mapping, Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler
from optuna.storages import InMemoryStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from frostline.core.config import SearchConfig
from frostline.core.errors import unknown_option, user_error
from frostline.report.studies import quiet
from frostline.sweeps.trial_marks import PAST

_SAMPLERS: dict[str, type[BaseSampler]] = {
    "random": optuna.samplers.RandomSampler,
    "qmc": optuna.samplers.QMCSampler,
    "tpe": optuna.samplers.TPESampler,
    "gp": optuna.samplers.GPSampler,
    "cmaes": optuna.samplers.CmaEsSampler,
}
INDEPENDENT = ("random", "qmc")
"""Samplers that ignore results, so that all trials can be drawn at once."""
OF_COMPLETE = ("gp",)
"""Samplers that ignore pruned trials, and get waiting ones as complete; not CMA-ES (docs/hyperparameters.md)."""
_UNFIT = {"seed", "gamma", "weights", "constraints_func", "independent_sampler", "source_trials"}
"""Arguments of samplers that are not set by the user: the seed, and what no config holds, as functions."""
_SEEDS = 2**16  # more than the trials of a study, so that no two seeds share the seed of a trial

_SEQUENCES: dict[str, optuna.Study] = {}
"""Studies that generate quasi-random sequences, by seed, options and space."""


def check_options(search: SearchConfig) -> None:
    """Raise `UserError` for options that the sampler does not have, or values that it refuses."""
    startup = search.options.get("n_startup_trials", 0)
    if type(startup) is not int or startup < 0:
        raise user_error("search.options.n_startup_trials", startup, "a whole number from 0")
    sampler(search, 0)


@quiet()
def sampler(search: SearchConfig, number: int) -> BaseSampler:
    """Return the sampler for the trial `number`; UserError for options that it does not have.

    `qmc` has one sequence for all trials, and so one seed; other samplers get a seed per trial. The first trials of
    `tpe` and `gp` are random, Optuna's default. Five trials of a scrambled Sobol sequence in their place are no better:
    51, 76, 80 and 90 of 100 searches found the best run of recorded grids after 5, 10, 12 and 20 trials, and 52, 78, 82
    and 91 with random ones (600 searches with `tpe`, as in benchmarks/replay.py).
    """
    seed = search.seed if search.name == "qmc" else search.seed * _SEEDS + number
    known = sorted(set(inspect.signature(_SAMPLERS[search.name]).parameters) - _UNFIT)
    for key in search.options.keys() - known:
        raise unknown_option(f"search.options.{key}", search.options[key], f"search={search.name}", known)
    try:
        return _SAMPLERS[search.name](seed=seed, **search.options)  # type: ignore[call-arg]
    except (TypeError, ValueError) as error:
        expected = f"values that Optuna's {_SAMPLERS[search.name].__name__} accepts ({error})"
        raise user_error("search.options", search.options, expected) from None


def drawn_aside(
    search: SearchConfig,
    directions: Sequence[StudyDirection],
    others: Iterable[FrozenTrial],
    space: Mapping[str, BaseDistribution],
    number: int,
) -> FrozenTrial:
    """Draw the trial `number` given the `others` of its study, without writing to that study's storage."""
    others = [*others]
    if search.name == "qmc":
        return _of_sequence(search, space, number - sum(PAST in one.user_attrs for one in others))
    aside = optuna.create_study(directions=directions, sampler=sampler(search, number), storage=_Aside(others, number))
    aside.ask({**space})
    return aside.get_trials(deepcopy=False)[-1]  # `trials` would copy all


def _of_sequence(search: SearchConfig, space: Mapping[str, BaseDistribution], number: int) -> FrozenTrial:
    """Return trial `number`, without observations, of a quasi-random sequence, from a study kept for the next trial."""
    what = repr((search.seed, search.options, sorted(space.items(), key=str)))
    if (study := _SEQUENCES.get(what)) is None:
        study = _SEQUENCES[what] = optuna.create_study(sampler=sampler(search, 0))
    for _ in range(number + 1 - len(study.get_trials(deepcopy=False))):
        study.ask({**space})
    return study.get_trials(deepcopy=False)[number]


class _Aside(InMemoryStorage):
    """A storage for one new trial beside `others`, which it does not copy, since copying many takes long."""

    def __init__(self, others: Iterable[FrozenTrial], number: int) -> None:
        super().__init__()
        self._others, self._number = [one for one in others if one.state is not TrialState.WAITING], number

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        """Create the trial with its number in the original study."""
        trial_id = super().create_new_trial(study_id, template_trial)
        self.get_trial(trial_id).number = self._number
        return trial_id

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        """Return the other trials, followed by the new one."""
        others = [one for one in self._others if states is None or one.state in states]
        return others + super().get_all_trials(study_id, deepcopy, states)


@quiet()
def given(values: Mapping[str, Any]) -> BaseSampler:
    """Return a sampler that draws these fixed values."""
    return optuna.samplers.PartialFixedSampler(dict(values), optuna.samplers.RandomSampler())


@quiet()
def pruner(search: SearchConfig) -> BasePruner:
    """Return the pruner that stops trials early for good; none for Hyperband, whose trials wait at `rungs`."""
    if search.prune == "median":
        return optuna.pruners.MedianPruner(n_warmup_steps=2)  # one epoch says little
    return optuna.pruners.WilcoxonPruner() if search.prune == "wilcoxon" else optuna.pruners.NopPruner()
