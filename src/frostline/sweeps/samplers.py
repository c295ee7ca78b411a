"""Who suggests what a search tries next, and who stops trials early: Optuna's samplers and pruners."""

from __future__ import annotations

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
from frostline.core.errors import user_error
from frostline.report.studies import quiet

_SAMPLERS: dict[str, type[BaseSampler]] = {
    "random": optuna.samplers.RandomSampler,
    "qmc": optuna.samplers.QMCSampler,
    "tpe": optuna.samplers.TPESampler,
    "gp": optuna.samplers.GPSampler,
    "cmaes": optuna.samplers.CmaEsSampler,
}
INDEPENDENT = ("random", "qmc")
"""Samplers to which no trial's result matters, so that all trials can be asked for at once."""
OF_COMPLETE = ("gp",)
"""Samplers that learn nothing from trials which were stopped early, of which CMA-ES has no need (docs/search.md)."""
_SEEDS = 2**16  # more trials than a study has, so that those of two seeds do not draw the same

_SEQUENCES: dict[str, optuna.Study] = {}
"""Studies of the quasi-random sequences that were drawn from, by seed, options and space."""


@quiet()
def sampler(search: SearchConfig, number: int) -> BaseSampler:
    """Return the sampler that draws the trial `number`; raises UserError for options that it does not have.

    A quasi-random sequence is one for all trials, which remember how far it is; others draw anew for each. The first
    trials of `tpe` and `gp` stay random, as Optuna has them: with five of a scrambled Sobol sequence in their place 51,
    76, 80 and 90 of 100 searches had found the best run of recorded grids after 5, 10, 12 and 20 trials, with random
    ones 52, 78, 82 and 91 (600 searches with `tpe`, as in benchmarks/replay.py).
    """
    seed = search.seed if search.name == "qmc" else search.seed * _SEEDS + number
    try:
        return _SAMPLERS[search.name](seed=seed, **search.options)  # type: ignore[call-arg]
    except (TypeError, ValueError) as error:
        expected = f"keyword arguments of Optuna's {_SAMPLERS[search.name].__name__} ({error})"
        raise user_error("search.options", search.options, expected) from None


def drawn_aside(
    search: SearchConfig,
    directions: Sequence[StudyDirection],
    others: Iterable[FrozenTrial],
    space: Mapping[str, BaseDistribution],
    number: int,
) -> FrozenTrial:
    """Return the trial `number` as it is drawn in a study that has the `others`, which it is not written to."""
    if search.name == "qmc":
        return _of_sequence(search, space, number)
    aside = optuna.create_study(directions=directions, sampler=sampler(search, number), storage=_Aside(others, number))
    aside.ask({**space})
    return aside.get_trials(deepcopy=False)[-1]  # `trials` copies all


def _of_sequence(search: SearchConfig, space: Mapping[str, BaseDistribution], number: int) -> FrozenTrial:
    """Return the trial `number` of a quasi-random sequence: a study knows how far that is, and is kept for the next."""
    what = repr((search.seed, search.options, sorted(space.items(), key=str)))
    if (study := _SEQUENCES.get(what)) is None:
        study = _SEQUENCES[what] = optuna.create_study(sampler=sampler(search, 0))
    for _ in range(number + 1 - len(study.get_trials(deepcopy=False))):
        study.ask({**space})
    return study.get_trials(deepcopy=False)[number]


class _Aside(InMemoryStorage):
    """A storage for one trial in a study that has `others`: these are not copied, which takes long where many are."""

    def __init__(self, others: Iterable[FrozenTrial], number: int) -> None:
        super().__init__()
        self._others, self._number = [one for one in others if one.state is not TrialState.WAITING], number

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        """Do what is said there; the trial has its number in the other study."""
        trial_id = super().create_new_trial(study_id, template_trial)
        self.get_trial(trial_id).number = self._number
        return trial_id

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        """Return the other trials, and its own behind them."""
        others = [one for one in self._others if states is None or one.state in states]
        return others + super().get_all_trials(study_id, deepcopy, states)


@quiet()
def given(values: Mapping[str, Any]) -> BaseSampler:
    """Return a sampler that draws these values, which are known."""
    return optuna.samplers.PartialFixedSampler(dict(values), optuna.samplers.RandomSampler())


@quiet()
def pruner(search: SearchConfig) -> BasePruner:
    """Return what stops trials early, each for good; with Hyperband they wait instead, at `rungs`."""
    if search.prune == "median":
        return optuna.pruners.MedianPruner(n_warmup_steps=2)  # one epoch says little
    return optuna.pruners.WilcoxonPruner() if search.prune == "wilcoxon" else optuna.pruners.NopPruner()
