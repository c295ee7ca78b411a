"""The cells of a search: every combination of the listed values, each with its search space, checked and described."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import Override
from optuna.distributions import BaseDistribution, distribution_to_json
from optuna.trial import FrozenTrial, TrialState

from frostline.core.config import Config
from frostline.core.config_keys import is_read, value_of
from frostline.core.errors import user_error
from frostline.core.metrics import METRICS
from frostline.core.objectives import Objective
from frostline.records import journal, layout, trial_tags
from frostline.records.result import PRUNED, Result
from frostline.sweeps import hydra_keys, hydra_overrides, search_space
from frostline.sweeps.compose import PlannedRun, compose_trial, with_auto
from frostline.sweeps.composer import Composer
from frostline.sweeps.hydra_overrides import Overrides
from frostline.sweeps.job_config import config_of
from frostline.sweeps.search_budget import Budget, Spent
from frostline.sweeps.study import Study, objectives_of

_FRESH = {  # what to do instead of several values, of which the best is best by luck
    "seed": "; search.confirm=5 gives the best one fresh seeds",
    "data.subset_seed": "; search.confirm=5 'data.subset_seed=${seed}' gives the best one fresh draws",
}
_MANY = 10**6  # more trials than any cell has
_LONG = 200  # bytes of a folder's name, of the 255 of a file system


@dataclass
class SearchCell:
    """One combination of the listed values, and the study of the keys with ranges."""

    name: str
    setting: dict[str, str]
    """The overrides of its runs, by key as typed, without the searched keys."""
    space: dict[str, BaseDistribution]
    config: Config
    """The config, in which searched keys have the values of the files."""
    known: PlannedRun
    """A checked run of it."""
    compose: Composer
    varied: Sequence[str]
    """The keys, as typed, whose values differ between cells, without the freeze mode."""
    auto: Mapping[str, str] = field(init=False)
    """The values of `auto` in its runs, by key."""
    study: Study = field(init=False)
    begun: set[int] = field(default_factory=set)
    """The numbers of its trials that are runs of this sweep."""
    confirmed: int | None = None
    """The number of the trial that this sweep confirms."""

    @property
    def budget(self) -> Budget:
        """Its budget."""
        return Budget.of(self.config, searched=bool(self.space))

    def at(self, values: Mapping[str, Any]) -> dict[str, str]:
        """Return the overrides, by key, of a run with these values of the searched keys."""
        return _with_values(self.setting, values)

    def folder(self, which: int | str) -> str:
        """Return the folder name of one of its trials or other runs; no other cell of the search has the same."""
        slug = re.sub(r"[^\w.=+-]+", "_", self.name, flags=re.ASCII)
        if len(slug) > _LONG or slug != self.name.replace(" ", "_"):  # names may differ only in what is cut or replaced
            slug = f"{slug[:_LONG]}-{hashlib.sha256(self.name.encode()).hexdigest()[:8]}"
        return f"{slug}-{which}"

    @property
    def settled(self) -> Config:
        """The config, with the values of `auto`."""
        return with_auto(self.known, self.auto).config

    def corners(self) -> list[PlannedRun]:
        """Return runs with the lowest, the highest and each listed value of the space; raises `UserError` for bad ones.

        Their checks show before the search whether its trials can run.
        """
        points = search_space.ends(self.space)
        return [compose_trial(self.at(values), self.compose, folder=self.name) for values in points]

    def run(self, setting: Mapping[str, str], folder: str, mark: Mapping[str, int], where: Path | None) -> PlannedRun:
        """Return a run of the cell, given its overrides and folder, and the folder of another sweep that has it.

        The `mark` states which trial it is, or which one it confirms.
        """
        marks = {
            trial_tags.SEARCH: self.config.search.name,
            trial_tags.STUDY: self.study.name,
            trial_tags.BUDGET: str(self.budget),
            trial_tags.SPACE: {key: distribution_to_json(one) for key, one in self.space.items()},
            **({trial_tags.OBJECTIVE: objective} if (objective := self.config.search.objective) else {}),
            **mark,
        }
        shown = [*self.varied, *self.space]
        run = compose_trial(setting, self.compose, shown=shown, folder=folder, marks=marks)
        return replace(with_auto(run, self.auto), elsewhere=where and where / folder)

    @property
    def unbegun(self) -> list[int]:
        """The numbers of trials that the study has within the budget and this sweep has not begun."""
        return [number for number in self.study.numbers() if number not in self.begun]

    @property
    def left(self) -> int:
        """How many more trials may begin, as far as known now."""
        return len(self.unbegun) or int(min(self.budget.room(self.study.spent()), _MANY))

    @property
    def affords(self) -> bool:
        """Whether the budget allows to promote a trial; always if trials are counted, since it is counted."""
        return self.budget.unit == "trials" or self.budget.room(self.study.spent()) > 0

    @property
    def may_promote(self) -> bool:
        """Whether a waiting trial can be promoted within the budget."""
        return self.affords and self.study.rungs.may_promote()

    @property
    def unconfirmed(self) -> FrozenTrial | None:
        """The best trial once all trials are over, unless this sweep has confirmed it; else None."""
        return self.study.best() if self.confirmed is None and self.study.over() else None

    def confirmations(self, best: FrozenTrial) -> list[PlannedRun]:
        """Return the runs of the `best` trial on fresh seeds; if another sweep has finished them, they come from there.

        Raises `Taken` while another live search is confirming it.
        """
        where, found = self.study.sharing.confirm(best.number), []
        self.confirmed = best.number
        for seed in range(self.config.seed + 1, self.config.seed + 1 + self.config.search.confirm):
            setting = {**self.at(best.params), "seed": str(seed), "search.prune": "none"}
            found.append(self.run(setting, self.folder(f"seed{seed}"), {trial_tags.CONFIRMS: best.number}, where))
        return found

    def tell(self, number: int, result: Result) -> None:
        """Report the result of a trial to its study, or that the trial waits at a rung and may run again.

        A trial that diverged is pruned without a value, which samplers rank below all others. A trial that failed
        otherwise is left, so that the same command runs it again, as in a grid. A trial that an earlier search had
        trained further still waits at the rungs, so that the search draws the same trials.
        """
        study, spent = self.study, Spent.of(result)
        values, state = _outcome(result, objectives_of(self.config))
        by, matter = METRICS[self.config.select], self.config.search.prune != "none"
        epochs = [line[by.epoch] for line in journal.epochs(Path(result.folder)) if by.epoch in line] if matter else []
        if result.status in ("PAUSED", "FINISHED") and study.rungs.pauses(number, len(epochs)):
            study.rungs.pause(number, epochs, spent)
        elif state is not None:
            study.tell(number, values, state, epochs, spent)
        elif result.status == "FAILED":
            study.leave(number, spent)
        if study.rungs.waits(number):
            self.begun.discard(number)


def cells_of(jobs: Sequence[Overrides], ranges: Mapping[str, Override], compose: Composer) -> list[SearchCell]:
    """Return the checked cells, each with a run that has the lowest value of every range; raises UserError.

    Jobs that differ only in keys that they ignore are one cell.
    """
    settings = hydra_overrides.settings_of(jobs)
    varied = hydra_overrides.varied(settings)
    shown = [key for key in varied if key.lstrip("+") not in ("freeze", "freeze_mode")]
    composed = compose(jobs[0])
    first, groups = config_of(composed), [str(group) for group in composed.hydra.runtime.choices]
    modes = dict.fromkeys(str(compose(overrides).freeze_mode.name) for overrides in jobs)
    search_space.check_keys(ranges, [*modes], groups)
    cells: list[SearchCell] = []
    for overrides, setting in zip(jobs, settings, strict=True):
        composed = compose(overrides)
        config = config_of(composed)
        _check(config, first, hydra_keys.subdir(composed))
        fixed, solver = hydra_overrides.typed_values(overrides), config.freeze_mode.solver
        space = search_space.of_cell(config, fixed, ranges)
        if not space and solver is None:
            expected = "at least one range to search, as lr=interval(1e-5,1) or lr=auto; or search=grid"
            raise user_error("search", config.search.name, expected)
        unread = tuple(key.lstrip("+") for key in shown if not is_read(key.lstrip("+"), solver))
        own = [key for key in shown if key.lstrip("+") not in unread]
        name = " ".join([config.freeze_mode.name, *(f"{key.lstrip('+')}={setting[key]}" for key in own)])
        if unread and (twin := next((cell for cell in cells if cell.name == name), None)):
            twin.known = replace(twin.known, jobs=twin.known.jobs + 1, unread=unread)
            continue
        lowest = _with_values(setting, search_space.ends(space)[0])
        known = compose_trial(lowest, compose, folder=name)
        cells.append(SearchCell(name, setting, space, config, known, compose, own))
    _check_cmaes(cells)
    return cells


def _with_values(setting: Mapping[str, str], values: Mapping[str, Any]) -> dict[str, str]:
    """Return the overrides of a cell, by key, with these values of the searched keys."""
    return {**setting, **{key: search_space.text_of(value) for key, value in values.items()}}


def _check_cmaes(cells: Sequence[SearchCell]) -> None:
    """Raise `UserError` for CMA-ES with a cell that has a single range of numbers, or none but other ranges."""
    numbers = [sum(hasattr(one, "low") for one in cell.space.values()) for cell in cells if cell.space]
    if cells[0].config.search.name == "cmaes" and min(numbers, default=2) < 2:
        raise user_error("search", "cmaes", "two or more ranges of numbers, which CMA-ES needs; or search=tpe")


def _outcome(result: Result, objectives: Sequence[Objective]) -> tuple[list[float] | None, TrialState | None]:
    """Return the values and the state of a trial, given its run's result; None as state if it is not over."""
    if result.status == "FINISHED":
        if PRUNED in result.metrics:
            return None, TrialState.PRUNED
        values = [result.metrics.get(one.metric, math.nan) for one in objectives]
        return (values, TrialState.COMPLETE) if all(map(math.isfinite, values)) else (None, TrialState.FAIL)
    if result.status == "FAILED":
        return None, TrialState.PRUNED if trial_tags.is_diverged_trial(result) else None
    return None, None


def is_seen(folder: Path) -> bool:
    """Return whether a run's result is readable here; its folder may be on another machine."""
    return (folder / layout.RESULT).is_file()


def tells(result: Result) -> bool:
    """Return whether a search learns from a run; after a round without such a run, further rounds are pointless."""
    return result.status in ("FINISHED", "PAUSED") or trial_tags.is_diverged_trial(result)


def _check(config: Config, first: Config, subdir: str | None) -> None:
    """Raise `UserError` for keys that a search cannot have, or cannot have with other values than in the `first` cell.

    An experiment's file may set them, too.
    """
    if subdir is not None:
        expected = "nothing in a search, whose folders are named after cell and trial"
        raise user_error("hydra.sweep.subdir", subdir, expected)
    if config.search != first.search:
        raise user_error("search", config.search.name, "one search method for all runs of a sweep")
    for key in ("trials", "select", *_FRESH):
        if value_of(config, key) != value_of(first, key):
            raise user_error(key, "several values", f"one value in a search{_FRESH.get(key, '')}")
    if config.data.folds is not None:
        raise user_error("data.folds", config.data.folds, "null in a search, where a trial is one run")
