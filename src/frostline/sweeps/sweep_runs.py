"""The runs of a sweep as it goes on: which there are, which are under way, and what came of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from frostline.core.config import Config
from frostline.records import sweep_record
from frostline.records.result import Result
from frostline.records.sweep_record import Tracker
from frostline.sweeps import closing
from frostline.sweeps.compose import PlannedRun, in_order
from frostline.sweeps.executor import Executor, Further
from frostline.sweeps.lockstep_groups import stacked
from frostline.sweeps.past_runs import Past
from frostline.sweeps.skip_or_resume import Takeover, facts_of


class Rounds(Protocol):
    """What decides which further runs a sweep has, given what came of those before: a search."""

    def settle(self, auto: Mapping[str, Mapping[str, str]], prints: Callable[[list[Config]], list[str | None]]) -> str:
        """Be told what `auto` means to each kind, and who tells data by what they are; return the search's identity.

        Two searches that have it in common are one.
        """
        ...

    def begin(self, folder: Path | None, workers: int, past: Callable[[Config], Iterable[Past]]) -> None:
        """Be told where the sweep lies, None in a dry run; how many workers it has.

        `past` returns the runs of earlier sweeps that finished and had the source and the data of a config.
        """

    def alive(self) -> None:
        """Be told now and then that the sweep goes on."""

    def following(self, results: Mapping[str, Result]) -> list[PlannedRun]:
        """Return the next runs, given by folder the results of those before; none where that was all."""

    def meanwhile(self, folder: str, result: Result) -> list[PlannedRun]:
        """Return what a worker may do that is free while others go on, given the result of the run in `folder`."""


class SweepRuns:
    """Owner of what is known of the runs of a sweep, which may become more as it goes on."""

    def __init__(
        self, executor: Executor, folder: Path, tracker: Tracker | None, takeover: Takeover | None, search: str | None
    ) -> None:
        self._executor, self._folder, self._takeover = executor, folder, takeover
        self._recorded = tracker is not None
        self._file = sweep_record.SweepFile(folder, tracker, search)
        self._facts: list[sweep_record.RunFacts] = []
        self._numbers: dict[str, int] = {}
        self._reasons: dict[int, Exception] = {}

    def carry_out(
        self, planned: Sequence[PlannedRun], meanwhile: Callable[[int], list[PlannedRun]] = lambda number: []
    ) -> KeyboardInterrupt | None:
        """Carry out runs, and return the interrupt if there was one.

        Where a worker is free while others go on, `meanwhile` is told the number of the run that it had, and returns
        what it may do.
        """
        jobs = self._added(planned)
        under_way = {*jobs}

        def further(number: int) -> dict[int, int | None]:
            under_way.discard(number)
            if not 0 < len(under_way) < self._executor.workers:
                return {}
            more = self._added(meanwhile(number))
            under_way.update(more)
            return more

        reasons, interrupt = _run(self._executor, jobs, further)
        self._reasons |= reasons
        return interrupt

    def _added(self, planned: Sequence[PlannedRun]) -> dict[int, int | None]:
        """Return what of these runs is to be done, by number with its stack, once all is known that their jobs need.

        What has no folder yet is numbered behind all before; what has one goes on there, alone.
        """
        if not planned:
            return {}
        first = len(self._facts)
        further = [run for run in planned if run.folder not in self._numbers]
        on = [self._numbers[run.folder] for run in planned if run.folder in self._numbers]
        self._numbers |= {run.folder: number for number, run in enumerate(further, first)}
        self._executor.settle(self._folder, further)
        facts = self._takeover.facts(further, first) if self._takeover else tuple(map(facts_of, further))
        with self._takeover.left_to_others(facts, first) if self._takeover else nullcontext(facts) as own:
            workers = self._executor.workers if self._recorded else 0
            facts = stacked([run.config for run in further], own, workers, first=first)
            self._facts += facts
            for number in on:
                self._facts[number] = replace(self._facts[number], stack=None, of_steps={})
            self._file.add(facts, {number: self._facts[number] for number in on})
        numbers = [*on, *(first + number for number in in_order(further))]
        return {number: self._facts[number].stack for number in numbers if self._facts[number].to_do}

    def carry_out_rounds(self, rounds: Rounds) -> KeyboardInterrupt | None:
        """Carry out all rounds; return the interrupt if there was one, while runs went on or between them."""
        past = self._takeover.finished if self._takeover else lambda _: ()
        rounds.begin(self._folder if self._recorded else None, self._executor.workers, past)
        results: dict[str, Result] = {}
        self._file.add(())

        def meanwhile(number: int) -> list[PlannedRun]:
            (result,) = self.results([number])
            more = rounds.meanwhile(self._facts[number].folder, result)
            following.extend(more)
            return more

        try:
            while following := rounds.following(results):
                if (interrupt := self.carry_out(following, meanwhile)) is not None:
                    return interrupt
                folders = [*dict.fromkeys(run.folder for run in following)]
                results = dict(zip(folders, self.results(map(self._numbers.__getitem__, folders)), strict=True))
        except KeyboardInterrupt as interrupt:
            return interrupt
        return None

    def results(self, which: Iterable[int] | None = None) -> list[Result]:
        """Return what the runs came to so far: all in the order of their numbers, or `which`."""
        return closing.results(self._folder, self._facts, self._reasons, which)


def _run(
    executor: Executor, jobs: Mapping[int, int | None], further: Further
) -> tuple[Mapping[int, Exception], KeyboardInterrupt | None]:
    """Run the jobs; returns why some came to nothing, and the interrupt if there was one."""
    try:
        return executor.run(jobs, further), None
    except KeyboardInterrupt as interrupt:
        return {}, interrupt
