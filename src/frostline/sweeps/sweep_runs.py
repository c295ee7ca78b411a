"""The runs of a sweep in progress: those known so far, those running, and their results."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from frostline.records.result import Result
from frostline.records.sweep_facts import RunFacts, SweepFile, Tracker
from frostline.sweeps import closing
from frostline.sweeps.compose import PlannedRun, in_order
from frostline.sweeps.executor import Executor
from frostline.sweeps.lockstep_groups import stacked
from frostline.sweeps.pool import Jobs
from frostline.sweeps.skip_or_resume import Takeover, facts_of

if TYPE_CHECKING:
    from frostline.sweeps.search_rounds import Search  # imports Optuna


class SweepRuns:
    """Owner of the facts and results of a sweep's runs, to which rounds may add."""

    def __init__(
        self, executor: Executor, folder: Path, tracker: Tracker | None, takeover: Takeover | None, identity: str | None
    ) -> None:
        self._executor, self._folder, self._takeover = executor, folder, takeover
        self._recorded = tracker is not None
        self._file = SweepFile(folder, tracker, identity)
        self._planned: list[PlannedRun] = []
        self._facts: list[RunFacts] = []
        self._numbers: dict[str, int] = {}
        self._reasons: dict[int, Exception] = {}
        self._round: dict[str, int] = {}
        """The numbers of the runs of the last `carry_out`, by folder."""

    def carry_out(
        self, planned: Sequence[PlannedRun], meanwhile: Callable[[int], list[PlannedRun]] = lambda number: []
    ) -> KeyboardInterrupt | None:
        """Run the `planned` runs, and return the interrupt if there was one.

        When a worker becomes free while others train, `meanwhile` gets the number of its last run and returns further
        runs for it.
        """
        self._round = {}
        jobs = self._added(planned)
        under_way = {*jobs}

        def further(number: int) -> Jobs:
            under_way.discard(number)
            if not 0 < len(under_way) < self._executor.workers:
                return {}
            more = self._added(meanwhile(number))
            under_way.update(more)
            return more

        try:
            self._reasons |= self._executor.run(self._folder, self._planned, jobs, further)
        except KeyboardInterrupt as interrupt:
            return interrupt
        return None

    def _added(self, planned: Sequence[PlannedRun]) -> Jobs:
        """Register runs, write the facts that their jobs need, and return the jobs of those left to do.

        A run with a new folder gets the next number; a run whose folder is known continues there, in no stack.
        """
        if not planned:
            return {}
        first = len(self._facts)
        new = [run for run in planned if run.folder not in self._numbers]
        continuing = [self._numbers[run.folder] for run in planned if run.folder in self._numbers]
        self._numbers |= {run.folder: number for number, run in enumerate(new, first)}
        self._planned += new
        facts = self._takeover.facts(new, first) if self._takeover else tuple(map(facts_of, new))
        with self._takeover.left_to_others(facts, first) if self._takeover else nullcontext(facts) as own:
            workers = self._executor.workers if self._recorded else 0
            facts = stacked([run.config for run in new], own, workers, first=first)
            self._facts += facts
            for number in continuing:
                self._facts[number] = replace(self._facts[number], stack=None, of_steps={})
            self._file.add(facts, {number: self._facts[number] for number in continuing})
        self._round |= {run.folder: self._numbers[run.folder] for run in planned}
        numbers = [*continuing, *(first + number for number in in_order(new))]
        return {number: self._facts[number].stack for number in numbers if self._facts[number].to_do}

    def carry_out_search(self, search: Search) -> KeyboardInterrupt | None:
        """Run all rounds of a search; return the interrupt if there was one, during runs or between them."""
        past = self._takeover.finished if self._takeover else lambda _: ()
        search.begin(self._folder if self._recorded else None, self._executor.workers, past)
        results: dict[str, Result] = {}
        self._file.add(())
        try:
            while following := search.following(results):
                if (interrupt := self.carry_out(following, partial(self._meanwhile, search))) is not None:
                    return interrupt
                results = dict(zip(self._round, self.results(self._round.values()), strict=True))
        except KeyboardInterrupt as interrupt:
            return interrupt
        return None

    def _meanwhile(self, search: Search, number: int) -> list[PlannedRun]:
        (result,) = self.results([number])
        return search.meanwhile(self._facts[number].folder, result)

    def results(self, which: Iterable[int] | None = None) -> list[Result]:
        """Return the results so far: of all runs in the order of their numbers, or of `which`."""
        return closing.results(self._folder, self._facts, self._reasons, which)
