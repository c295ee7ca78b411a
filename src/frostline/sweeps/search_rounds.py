"""The rounds of a search: the next trials, given the results of earlier ones, and finally the confirming runs.

A round depends only on the studies. So a killed search resumes as if it had not been interrupted, and a search in
another folder takes over finished trials.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from optuna.trial import FrozenTrial

from frostline.core import project
from frostline.core.config import Config
from frostline.core.config_keys import digest
from frostline.records import trial_tags
from frostline.records.result import Result, number_of
from frostline.report import terminal
from frostline.sweeps.compose import PlannedRun, check_key, run_key
from frostline.sweeps.past_runs import PastRun
from frostline.sweeps.past_trials import observations
from frostline.sweeps.samplers import INDEPENDENT
from frostline.sweeps.search_cells import SearchCell, is_seen, tells
from frostline.sweeps.study import JUDGING, Study
from frostline.sweeps.study_sharing import Taken
from frostline.sweeps.study_storage import Storage, refusing_damage, storage_of

Pasts = Callable[[Config], Iterable[PastRun]]
"""Returns the finished runs of earlier sweeps with today's source and the data of a config."""
_LOOK = 1.0  # seconds between two looks at other searches in a shared study


@dataclass
class Search:
    """The rounds of a search, which decide the next runs of a sweep from the results of earlier ones."""

    cells: list[SearchCell]
    storage: Storage | None = None
    """A storage shared with other searches; None for a file in the sweep's folder."""
    _round: dict[str, str] = field(default_factory=dict)
    """By folder, the keys of runs of the last round whose results the studies do not have yet."""
    _waiting: dict[str, list[tuple[SearchCell, int]]] = field(default_factory=dict)
    """By key of a running run, the trials with its values."""
    _twins: list[tuple[SearchCell, int, int]] = field(default_factory=list)
    """Trials with the values of an earlier one that may continue later: cell, number, number of the earlier one."""
    _done: dict[str, Result] = field(default_factory=dict)
    """Results by key."""
    identity: str = field(init=False)
    """Two searches with the same identity are the same search; known when `auto` is resolved."""

    def resolve_auto(
        self, auto: Mapping[str, Mapping[str, str]], prints: Callable[[list[Config]], list[str | None]]
    ) -> None:
        """Take in the values of `auto` for each kind of run, and derive the identity of the search.

        It covers space, sampler, settings, weights, code, and data, whose fingerprints `prints` returns: a study must
        not mix results of different ones.
        """
        search = self.cells[0].config.search
        for cell in self.cells:
            cell.auto = auto[check_key(cell.known.config)]
        how = [search.name, search.options, search.seed, search.prune, search.objective, project.source_sha256()]
        what = [[cell.name, sorted((key, repr(one)) for key, one in cell.space.items())] for cell in self.cells]
        configs = [cell.settled for cell in self.cells]
        told = [how, what, [*map(digest, configs)], prints(configs)]
        self.identity = hashlib.sha256(json.dumps(told, default=str).encode()).hexdigest()

    def begin(self, folder: Path | None, workers: int, past: Pasts) -> None:
        """Open the studies of the sweep in `folder`, None in a dry run, with so many `workers`.

        With `search.past`, new studies begin with the runs of `past` as observations.
        """
        search = self.cells[0].config.search
        self._dry, self._workers = folder is None, max(1, workers)
        JUDGING.clear()  # studies of an earlier sweep in this process, whose folder may be gone
        mine = f" {self.identity[:8]}" if self.storage else ""  # a shared storage has studies of other sweeps
        with nullcontext() if folder is None or self.storage else refusing_damage(folder):
            storage = self.storage or storage_of(replace(search, storage=None), folder)
            for cell in self.cells:
                cell.study = Study(storage, f"{cell.name}{mine}", cell.config, cell.space, folder, cell.budget.trials)
        for cell in self.cells if search.past and not self._dry else ():
            self._observe(cell, past)

    def _observe(self, cell: SearchCell, past: Pasts) -> None:
        """Add earlier runs of the same cell to its study as observations, and print how many."""
        config = cell.settled
        cell.study.observe([*observations(past(config), config, cell.space)])
        for place, count in Counter(str(Path(one).parent) for one in cell.study.observed()).items():
            terminal.say(f"search.past: {cell.name} begins with {number_of(count, 'run')} of {place}")

    def alive(self) -> None:
        """Give a sign of life to other searches in the studies; errors are ignored, since it is called again."""
        with suppress(Exception):
            for cell in self.cells:
                cell.study.sharing.alive()

    def following(self, results: Mapping[str, Result]) -> list[PlannedRun]:
        """Return the trials of the next round, or finally the confirming runs; `results` are by folder.

        Waits for trials of other searches in the studies, which this sweep takes over if they die.
        """
        self._wait_for_storage()
        self._tell(results)
        if (self._dry and results) or (results and not any(map(tells, results.values()))):
            return []
        while not (found := self._trials()) and any(cell.study.is_waited_for() for cell in self.cells):
            time.sleep(_LOOK)
            self._wait_for_storage()
        return found or self._confirmations()

    def _wait_for_storage(self) -> None:
        if self.storage is not None:
            self.storage.ready(terminal.say)

    def meanwhile(self, folder: str, result: Result) -> list[PlannedRun]:
        """Return a further trial of the cell of the run in `folder` for a free worker, while other trials run."""
        waiting = self._waiting.get(self._round.get(folder, ""))
        if not waiting or not tells(result):
            return []
        self._wait_for_storage()
        self._tell({folder: result})
        return self._next(waiting[0][0], 1)

    def _trials(self) -> list[PlannedRun]:
        """Return the next trials; none if the budget is spent, or if other searches have all that are left."""
        while True:
            if open_cells := [cell for cell in self.cells if cell.left or cell.may_promote]:
                share = max(1, math.ceil(self._workers / len(open_cells)))
                if found := [run for cell in open_cells for run in self._next(cell, share)]:
                    return found
                self._tell_twins()  # all new trials repeat the values of earlier ones
            elif not [cell for cell in self.cells if cell.study.rungs.conclude()]:
                return []

    def _next(self, cell: SearchCell, share: int) -> list[PlannedRun]:
        """Return the next trials of a cell: those that its study has already, else promoted and new ones."""
        if known := cell.unbegun:
            return [run for number in known for run in self._taken(cell, number)]
        with cell.study.deciding():
            most = (cell.config.search.batch or share) if cell.affords else 0
            promoted = [(number, cell.study.asked(number), where) for number, where in cell.study.rungs.promote(most)]
            new = self._at_once(cell, share) - len(promoted)
            asked = [(*cell.study.ask(), None) for _ in range(new)]
        return [
            run for number, values, where in [*promoted, *asked] for run in self._planned(cell, number, values, where)
        ]

    def _taken(self, cell: SearchCell, number: int) -> Iterator[PlannedRun]:
        """Yield the run of an existing trial, unless another search has it, or finished it in an unreadable folder."""
        try:
            where = cell.study.sharing.take(number)
        except Taken:
            return
        if where and cell.study.has_result(number) and not is_seen(where / cell.folder(number)):
            cell.begun.add(number)
            terminal.say(f"{cell.name} trial={number}: it counts, but its files are not here: {where}", "yellow")
            return
        yield from self._planned(cell, number, cell.study.asked(number), where)

    def _at_once(self, cell: SearchCell, share: int) -> int:
        """Return how many trials can be drawn now without results of others: all, a sampler's first few, or a batch."""
        search = cell.config.search
        if self._dry:
            return 1
        # A pruner needs finished trials to compare with; the cost of a trial is known when it is over.
        alone = not self.storage and search.prune == "none" and search.budget == "trials"
        if search.name in INDEPENDENT and alone:
            return cell.left
        startup = int(search.options.get("n_startup_trials", 1))
        return min(cell.left, max(startup - len(cell.study.trials()), search.batch or share))

    def _planned(
        self, cell: SearchCell, number: int, values: Mapping[str, Any], where: Path | None = None
    ) -> Iterator[PlannedRun]:
        """Yield the run of a trial, unless an earlier one has the same values, whose result then counts for both.

        `where` is the folder of another sweep in which the trial began; the run resumes from there.
        """
        cell.begun.add(number)
        if (other := cell.study.rungs.twin_of(number)) is not None:
            self._twins.append((cell, number, other))
            return
        folder = cell.folder(number)
        run = cell.run(cell.at(values), folder, {trial_tags.TRIAL: number}, where)
        key = run_key(run.config)
        if (done := self._done.get(key)) is not None and done.status != "PAUSED":
            cell.tell(number, done)
        elif key in self._waiting:
            self._waiting[key].append((cell, number))
        else:
            self._waiting[key] = [(cell, number)]
            self._round[folder] = key
            yield run

    def _confirmations(self) -> list[PlannedRun]:
        """Return the runs of best trials on fresh seeds, for cells whose trials are over; none if all are confirmed.

        Waits for confirmations by other searches, which this sweep takes over if they die.
        """
        found: list[PlannedRun] = []
        waiting = [(cell, best) for cell in self.cells if (best := cell.unconfirmed)]
        while waiting and not found:
            taken: list[tuple[SearchCell, FrozenTrial]] = []
            for cell, best in waiting:
                try:
                    found += [run for run in cell.confirmations(best) if _is_here(run)]
                except Taken:
                    taken.append((cell, best))
            if (waiting := taken) and not found:
                time.sleep(_LOOK)
                self._wait_for_storage()
        self._round |= {run.folder: run_key(run.config) for run in found}
        return found

    def _tell(self, results: Mapping[str, Result]) -> None:
        """Report the results of runs of the last round, given by folder, to the studies, unless they have them."""
        for folder, result in results.items():
            if (key := self._round.pop(folder, None)) is not None:
                for cell, number in self._waiting.pop(key, []):
                    cell.tell(number, result)
                self._done[key] = result
        self._tell_twins()
        for cell in self.cells if results else ():
            if cell.confirmed is not None:
                cell.study.sharing.confirmed(cell.confirmed)

    def _tell_twins(self) -> None:
        self._twins = [one for one in self._twins if not one[0].study.tell_as(one[1], one[2])]


def _is_here(run: PlannedRun) -> bool:
    """Return whether the result of a run is readable here if another search has finished it; say so if it is not."""
    if run.elsewhere is None or is_seen(run.elsewhere):
        return True
    terminal.say(f"{run.name}: it does not count here, since its files are not here: {run.elsewhere}", "yellow")
    return False
