"""A search: each cell of what is listed gets the same number of trials, and its best one is confirmed on fresh seeds.

A trial is a run like any other, but its values are known only once earlier trials are told: so runs are planned in
rounds. What a round holds depends on the studies and on nothing else, so that a search that was killed goes on as if
nothing had been, and one in another folder takes over what was finished.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.override_parser.types import Override
from omegaconf import DictConfig

from frostline.core.config import Config
from frostline.core.config_keys import digest
from frostline.core.errors import user_error
from frostline.core.metrics import METRICS
from frostline.core.objectives import several
from frostline.records import journal, search_marks
from frostline.records.result import PRUNED, Result
from frostline.sweeps import compose as composing
from frostline.sweeps import hydra_keys, job, search_space, sweep, unused_keys
from frostline.sweeps.compose import Overrides, PlannedRun
from frostline.sweeps.executor import Executor
from frostline.sweeps.search_budget import Budget, Spent

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.trial import TrialState

    from frostline.core.objectives import Objective
    from frostline.sweeps.study import Study

Compose = Callable[[Overrides], DictConfig]
GRID = "grid"
_MANY = 10**6
"""More trials than a cell has."""


@dataclass
class Cell:
    """One combination of what is listed, and the study of what is given a range."""

    name: str
    setting: dict[str, str]
    """What is typed for its runs, by key as typed, without what is searched."""
    space: dict[str, BaseDistribution]
    config: Config
    """With what is searched as it stands in the files."""
    known: PlannedRun
    """A run of it that was checked."""
    study: Study | None = None
    begun: int = 0
    """How many of its trials are runs of this sweep."""
    confirmed: bool = False

    @property
    def budget(self) -> Budget:
        """What it gets."""
        return Budget.of(self.config, searched=bool(self.space))

    def at(self, values: Mapping[str, Any]) -> dict[str, str]:
        """Return what is typed for a run that has these values of what is searched."""
        return {**self.setting, **{key: search_space.text_of(value) for key, value in values.items()}}


def is_asked(overrides: Sequence[Override], compose: Compose) -> bool:
    """Return whether a command line, with what it takes from files, searches."""
    listed, _ = search_space.split(overrides)
    return bool(compose(hydra_keys.points(listed)[0]).search.name != GRID)


def run_search(overrides: Sequence[Override], *, compose: Compose, executor: Executor, folder_named: bool) -> int:
    """Search, confirm what was found, draw the result, and return the exit status as `sweep.run_sweep` does.

    Raises `UserError` before any run starts.
    """
    listed, ranges = search_space.split(overrides)
    jobs = hydra_keys.points(listed)
    cells = _cells(jobs, ranges, compose, executor.start)
    configs = [cell.known.config for cell in cells]
    for line in [*unused_keys.check(_typed(jobs, ranges), configs), *_said(cells)]:
        job.screen().say(line)
    config = configs[0]
    rounds = Search(cells, compose)
    folder = composing.sweep_folder(compose, _overrides(cells[0].setting))
    planned = [run for cell in cells for run in rounds.corners(cell)]
    return sweep.run_planned(
        planned,
        executor=executor,
        folder=folder,
        folder_named=folder_named,
        earlier=config.resume,
        rounds=rounds,
    )


def _overrides(setting: Mapping[str, str]) -> list[str]:
    return [f"{key}={value}" for key, value in setting.items()]


def _typed(jobs: Sequence[Overrides], ranges: Mapping[str, Override]) -> dict[str, str]:
    """Return what was typed by key, but for ranges of one freeze mode, which has its own check."""
    fixed = {key.lstrip("+"): value for one in jobs for key, _, value in (given.partition("=") for given in one)}
    wide = {key: str(one.input_line).partition("=")[2] for key, one in ranges.items()}
    return fixed | {key: value for key, value in wide.items() if not key.startswith("search.space.")}


def _cells(
    jobs: Sequence[Overrides], ranges: Mapping[str, Override], compose: Compose, start: Callable[[Config], object]
) -> list[Cell]:
    """Return the cells, each with a run that has the lowest value of everything; raises UserError."""
    settings = [dict(one.split("=", 1) for one in overrides) for overrides in jobs]
    varied = [key for key in settings[0] if len({setting[key] for setting in settings}) > 1]
    cells: list[Cell] = []
    for number, (overrides, setting) in enumerate(zip(jobs, settings, strict=True)):
        composed = compose(overrides)
        config = job.config_of(composed)
        _check(config, varied)
        if number == 0:
            start(config)
            groups = [str(group) for group in composed.hydra.runtime.choices]
            search_space.check_keys(ranges, _modes(jobs, compose), groups)
        fixed = {key.lstrip("+"): value for key, value in setting.items()}
        space = search_space.of_cell(config, fixed, ranges)
        if not space and config.freeze_mode.solver is None:
            expected = "at least one range to search, as lr=interval(1e-5,1) or lr=auto; or search=grid"
            raise user_error("search", config.search.name, expected)
        others = [f"{key.lstrip('+')}={setting[key]}" for key in varied if _told(key)]
        name = " ".join([config.freeze_mode.name, *others])
        first = search_space.ends(space)[0]
        lowest = {**setting, **{key: search_space.text_of(value) for key, value in first.items()}}
        known = composing.compose_trial(lowest, compose, folder=name)
        cells.append(Cell(name, setting, space, config, known))
    if config.search.name == "cmaes" and any(len(_numbers(cell.space)) < 2 for cell in cells if cell.space):
        raise user_error("search", "cmaes", "two or more ranges of numbers, which CMA-ES needs; or search=tpe")
    return cells


def _numbers(space: Mapping[str, BaseDistribution]) -> list[str]:
    return [key for key, one in space.items() if hasattr(one, "low")]


def _told(key: str) -> bool:
    """Return whether a key that differs between cells is no freeze mode, which names them anyway."""
    return key.lstrip("+") not in ("freeze", "freeze_mode")


def _modes(jobs: Sequence[Overrides], compose: Compose) -> list[str]:
    return list(dict.fromkeys(str(compose(overrides).freeze_mode.name) for overrides in jobs))


def _check(config: Config, varied: Sequence[str]) -> None:
    """Raise `UserError` for what a search cannot have several of."""
    if config.search.name == GRID or any(key.lstrip("+").startswith("search") for key in varied):
        raise user_error("search", config.search.name, "one way to search for all runs of a sweep")
    for key in ("trials", "seed", "select"):
        if key in {one.lstrip("+") for one in varied}:
            why = "; search.confirm=5 gives the best one fresh seeds" if key == "seed" else ""
            raise user_error(key, "several values", f"one value in a search{why}")
    if config.data.folds is not None:
        raise user_error("data.folds", config.data.folds, "null in a search, where a trial is one run")


def _said(cells: Sequence[Cell]) -> Iterator[str]:
    """Yield what is searched where, in words, and with which budget."""
    config = cells[0].config
    alike: dict[str, list[str]] = {}
    for cell in cells:
        what = ", ".join(search_space.words(key, one) for key, one in cell.space.items()) or "nothing to search"
        alike.setdefault(what, []).append(cell.name)
    for what, names in alike.items():
        budget = Budget.of(config, searched=True)
        gets = f"trials={config.trials}" if budget.unit == "trials" else f"search.budget={budget} each"
        yield f"search={config.search.name} {gets}: {', '.join(names)}: {what}"
    if found := several(config.search.objective):
        each = ", ".join(f"{one.name} ({one.direction})" for one in found)
        first = f"the best of it by {found[0].name} is confirmed" if config.search.confirm else "nothing is confirmed"
        yield f"search.objective: the Pareto front of {each}; {first}"


@dataclass
class Search:
    """The rounds of a search."""

    cells: list[Cell]
    compose: Compose
    _round: list[str] = field(default_factory=list)
    """The digest of each run of the last round."""
    _waiting: dict[str, list[tuple[Cell, int]]] = field(default_factory=dict)
    """By digest of a run that goes on, the trials that have its values."""
    _done: dict[str, Result] = field(default_factory=dict)
    """By digest, what runs came to."""

    @property
    def identity(self) -> str:
        """What is searched, and how."""
        search = self.cells[0].config.search
        how = [search.name, search.options, search.seed, search.prune, search.objective]
        what = [[cell.name, sorted((key, repr(one)) for key, one in cell.space.items())] for cell in self.cells]
        settled = [digest(cell.known.config) for cell in self.cells]
        return hashlib.sha256(json.dumps([how, what, settled], default=str).encode()).hexdigest()

    def corners(self, cell: Cell) -> list[PlannedRun]:
        """Return runs that have the lowest, the highest and each of the listed values; raises `UserError` for bad ones.

        They show before anything starts whether its trials can run.
        """
        points = search_space.ends(cell.space)
        return [composing.compose_trial(cell.at(values), self.compose, folder=cell.name) for values in points]

    def begin(self, folder: Path | None, workers: int, auto: Mapping[str, Mapping[str, str]]) -> None:
        """Open the studies."""
        from frostline.sweeps.study import Study, mend, storage_of

        if folder is not None:
            mend(folder)

        self._dry, self._workers = folder is None, max(1, workers)
        self._auto = {id(cell): auto[composing.kind(cell.known.config)] for cell in self.cells}
        search = self.cells[0].config.search
        storage = storage_of(replace(search, storage=None) if self._dry else search, folder)
        mine = f" {self.identity[:8]}" if search.storage else ""  # a database may have studies of other sweeps
        for cell in self.cells:
            cell.study = Study(storage, f"{cell.name}{mine}", cell.config, cell.space)

    def following(self, results: Sequence[Result]) -> list[PlannedRun]:
        """Return the trials of the next round, or at last the runs that confirm the best of them."""
        self._tell(results)
        if self._dry and results:
            return []
        if results and not any(map(_tells, results)):
            return []
        while open_cells := [cell for cell in self.cells if self._left(cell)]:
            share = max(1, math.ceil(self._workers / len(open_cells)))
            if found := [run for cell in open_cells for run in self._next(cell, share)]:
                return found  # else all have the values of trials before them
        return [run for cell in self.cells for run in self._confirm(cell)]

    def _next(self, cell: Cell, share: int) -> list[PlannedRun]:
        """Return the trials of a cell that are next: those that its study has already, else new ones."""
        assert cell.study is not None
        if known := self._known(cell):
            trials = [(number, cell.study.asked(number)) for number in known]
        else:
            trials = [cell.study.ask() for _ in range(self._at_once(cell, share))]
        cell.begun += len(trials)
        return [run for number, values in trials for run in self._planned(cell, number, values)]

    def _left(self, cell: Cell) -> int:
        """Return how many more trials of a cell may begin, as far as that is known now."""
        assert cell.study is not None
        return len(self._known(cell)) or int(min(cell.budget.room(cell.study.spent()), _MANY))

    def _known(self, cell: Cell) -> range:
        """Return the numbers of the trials that the study has and this sweep has not begun; of trials a budget's."""
        assert cell.study is not None
        budget, there = cell.budget, len(cell.study.trials())
        return range(cell.begun, min(there, int(budget.amount)) if budget.unit == "trials" else there)

    def _at_once(self, cell: Cell, share: int) -> int:
        """Return how many trials do not have to wait for others: all, the first few of a sampler, or a batch."""
        from frostline.sweeps.study import INDEPENDENT

        search = cell.config.search
        if self._dry:
            return 1
        # A pruner compares with those that are over, and what a trial takes is known when it is over.
        if search.name in INDEPENDENT and search.prune == "none" and search.budget == "trials":
            return self._left(cell)
        startup = int(search.options.get("n_startup_trials", 1))
        return min(self._left(cell), max(startup - cell.begun, search.batch or share))

    def _planned(self, cell: Cell, number: int, values: Mapping[str, Any]) -> Iterator[PlannedRun]:
        """Yield the run of a trial, unless an earlier one has the same values: what that came to is told of both."""
        run = self._of(cell, cell.at(values), f"{_slug(cell)}-{number}", {search_marks.TRIAL: number})
        key = digest(run.config)
        if (done := self._done.get(key)) is not None:
            _tell(cell, number, done)
        elif key in self._waiting:
            self._waiting[key].append((cell, number))
        else:
            self._waiting[key] = [(cell, number)]
            self._round.append(key)
            yield run

    def _of(self, cell: Cell, setting: Mapping[str, str], folder: str, marks: Mapping[str, Any]) -> PlannedRun:
        from optuna.distributions import distribution_to_json

        shown = [*(key for key in self._varied() if _told(key)), *cell.space]
        assert cell.study is not None
        ours = {
            search_marks.SEARCH: cell.config.search.name,
            search_marks.STUDY: cell.study.name,
            search_marks.BUDGET: str(cell.budget),
            search_marks.SPACE: {key: distribution_to_json(one) for key, one in cell.space.items()},
            **({search_marks.OBJECTIVE: objective} if (objective := cell.config.search.objective) else {}),
            **marks,
        }
        run = composing.compose_trial(setting, self.compose, shown=shown, folder=folder, marks=ours)
        return composing.settled_as(run, self._auto[id(cell)])

    def _varied(self) -> list[str]:
        keys = self.cells[0].setting
        return [key for key in keys if len({cell.setting[key] for cell in self.cells}) > 1]

    def _confirm(self, cell: Cell) -> list[PlannedRun]:
        """Return the runs of the best trial on fresh seeds, once all trials are over; none where they are done."""
        assert cell.study is not None
        best = cell.study.best()
        over = all(map(cell.study.over, range(cell.begun)))
        if cell.confirmed or best is None or not over or self._dry:
            return []
        cell.confirmed = True
        found = []
        for seed in range(cell.config.seed + 1, cell.config.seed + 1 + cell.config.search.confirm):
            setting = {**cell.at(best.params), "seed": str(seed), "search.prune": "none"}
            setting = {key: value for key, value in setting.items() if key not in ("+seed", "++seed")}
            marks = {search_marks.CONFIRMS: best.number}
            found.append(self._of(cell, setting, f"{_slug(cell)}-seed{seed}", marks))
            self._round.append(digest(found[-1].config))
        return found

    def _tell(self, results: Sequence[Result]) -> None:
        """Tell the studies what came of the runs of the last round."""
        for key, result in zip(self._round, results, strict=True):
            for cell, number in self._waiting.pop(key, []):
                _tell(cell, number, result)
            self._done[key] = result
        self._round = []


def _tell(cell: Cell, number: int, result: Result) -> None:
    """Tell a study what came of a trial, if it is over.

    One that diverged is told as stopped early, without a value, which samplers take for worse than any other.
    """
    from frostline.sweeps.study import objectives_of

    assert cell.study is not None
    values, state = outcome(result, objectives_of(cell.config))
    if state is not None:
        by = METRICS[cell.config.select]
        matter = cell.config.search.prune != "none"
        epochs = [line[by.epoch] for line in journal.epochs(Path(result.folder)) if by.epoch in line] if matter else []
        cell.study.tell(number, values, state, epochs, Spent.of(result))


def outcome(result: Result, objectives: Sequence[Objective]) -> tuple[list[float] | None, TrialState | None]:
    """Return the values and the state of a trial, given its run; None for one that is not over."""
    from optuna.trial import TrialState

    if result.status == "FINISHED":
        if PRUNED in result.metrics:
            return None, TrialState.PRUNED
        values = [result.metrics.get(one.metric, math.nan) for one in objectives]
        return (values, TrialState.COMPLETE) if all(map(math.isfinite, values)) else (None, TrialState.FAIL)
    if result.status == "FAILED":
        return None, TrialState.PRUNED if search_marks.tells_a_search(result) else TrialState.FAIL
    return None, None


def _tells(result: Result) -> bool:
    """Return whether anything is learnt from a run: where none of a round did so, the next one would not either."""
    return result.status == "FINISHED" or search_marks.tells_a_search(result)


def _slug(cell: Cell) -> str:
    """Return the name of a cell as that of a folder."""
    return re.sub(r"[^\w.=+-]+", "_", cell.name)
