"""Follow a sweep from its files, without torch and MLflow: runs that start, their progress, and the end."""

from __future__ import annotations

import shlex
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from frostline.core import interrupts
from frostline.core.errors import UserError
from frostline.core.metrics import METRICS
from frostline.records import cluster_jobs, journal, layout, liveness
from frostline.records.result import number_of, percent, read_result
from frostline.records.sweep_facts import RunFacts, SweepFacts
from frostline.report import terminal
from frostline.sweeps import closing

_LOOK = 1.0  # seconds between two looks at the folder
_QUIET = 20.0  # seconds between two lines about the epochs of one run
_GONE = 15.0  # seconds without a live process or job after which the sweep counts as abandoned


def watch_command(sweep: Path) -> str:
    """Return the command that shows the progress of a sweep."""
    return f"python -m frostline watch {shlex.quote(str(sweep))}"


def follow(sweep: Path, *, detach: bool = False) -> int:
    """Show the progress of the `sweep` until it is over, and return the exit status as `sweep.run_sweep` does.

    With `detach`, only print how to do that later. Ctrl-C leaves the sweep running. If a sweep on a cluster has no job
    left that could write the results, they are written here. Raises the `UserError` of the first job, which checks, if
    it queued nothing.
    """
    if detach:
        terminal.say(f"Queued; `{watch_command(sweep)}` shows its progress")
        return 0
    shown = _Shown(sweep)
    try:
        while not shown.look():
            time.sleep(_LOOK)
    except KeyboardInterrupt as interrupt:
        ids = sorted({each.id.partition("_")[0] for each in cluster_jobs.alive(sweep) if each.engine == "slurm"})
        terminal.say(
            f"The runs continue; `{watch_command(sweep)}` shows their progress"
            + (f", and `scancel {' '.join(ids)}` ends them" if ids else "")
        )
        return interrupts.status(interrupt)
    checks = _Checks.of(cluster_jobs.of(sweep))
    if checks and checks.job.refused and not checks.queued:
        raise UserError(checks.job.refused)
    runs = SweepFacts.read(sweep).runs
    closed = bool(cluster_jobs.of(sweep)) and closing.close_if_over(sweep)
    results = closing.results(sweep, runs)
    if not closed:
        closing.show(results)
        if (sweep / layout.REPORT).exists():
            terminal.say(f"Report: {sweep / layout.REPORT}")
    if checks and checks.came_to_nothing:
        ((it, state),) = cluster_jobs.states([checks.job])
        terminal.say(f"{it} queued no run: {state}; its log is {it.log}. The same command continues.", "red")
    return 0 if closing.succeeded(results) else 1


@dataclass(frozen=True)
class _Checks:
    """The latest job of a sweep that checks and queues."""

    job: cluster_jobs.Job
    queued: bool
    """Whether it has queued a job."""

    @classmethod
    def of(cls, jobs: list[cluster_jobs.Job]) -> _Checks | None:
        """Find it among all jobs of the sweep; None if the command's own process checks."""
        number = max((number for number, each in enumerate(jobs) if not each.runs), default=None)
        return None if number is None else cls(jobs[number], number + 1 < len(jobs))

    @property
    def at_work(self) -> bool:
        """Whether it is queued or running."""
        return not self.job.ended and any(state.alive for _, state in cluster_jobs.states([self.job]))

    @property
    def came_to_nothing(self) -> bool:
        """Whether it failed before it queued a job."""
        return not self.queued and not self.at_work and bool(self.job.stopped or self.job.refused or not self.job.ended)


def wait(sweep: Path) -> None:
    """Show the progress of a `sweep` until none of its jobs is running or queued."""
    shown = _Shown(sweep)
    while cluster_jobs.alive(sweep):
        shown.look()
        time.sleep(_LOOK)


class _Shown:
    """Shows the progress of a sweep, and remembers what it has shown."""

    def __init__(self, sweep: Path) -> None:
        self._sweep = sweep
        self._begun: set[int] = set()
        self._ended: set[int] = set()
        self._epochs = Counter[int]()
        self._told: dict[int, float] = {}
        self._queue = ""
        self._gone: float | None = None

    def look(self) -> bool:
        """Show news, and return whether the sweep is over, or has no live process or job any more."""
        runs = SweepFacts.read(self._sweep).runs if SweepFacts.exist(self._sweep) else ()
        jobs = cluster_jobs.of(self._sweep)
        checks = _Checks.of(jobs)
        over = bool(runs) and journal.ended(self._sweep) and not (checks and checks.at_work)  # it may be typed again
        for number, facts in enumerate(runs):
            if facts.to_do and number not in self._ended:
                self._show(number, facts, len(runs))
        if over or (checks and checks.job.ended and checks.came_to_nothing):
            return True
        if self._left(jobs):
            self._gone = self._gone or time.monotonic()
            return time.monotonic() - self._gone > _GONE
        self._gone = None
        return False

    def _left(self, jobs: list[cluster_jobs.Job]) -> bool:
        """Show the number of running and queued jobs if it changed; return whether there is no live job or process."""
        if not jobs:
            return liveness.living(self._sweep / layout.OWNER) is None
        states = [state for _, state in cluster_jobs.states(jobs) if state.alive]
        counts = Counter(str(state) for state in states)
        queue = ", ".join(f"{number_of(count, 'job')} {word}" for word, count in sorted(counts.items()))
        if queue and queue != self._queue:
            terminal.say(f"  {queue}")
        self._queue = queue
        return not states

    def _show(self, number: int, facts: RunFacts, count: int) -> None:
        """Show news of a run: its start, its progress and its end."""
        folder, name = self._sweep / facts.folder, f"[{number + 1}/{count}] {facts.name}"
        epochs = journal.epochs(folder)
        if number not in self._begun and ((owner := liveness.read(folder / layout.BEAT)) or epochs):
            self._begun.add(number)
            terminal.say(f"{name}: begins" + (f" on {owner.host}" if owner else ""), "bold")
        result = read_result(folder)
        if len(epochs) > self._epochs[number] and (result or self._due(number)):
            self._epochs[number], last = len(epochs), epochs[-1]
            by = METRICS.get(str(facts.choices.get("select")))
            value = f", {by.words} {by.text(last[by.epoch])}" if by and by.epoch in last else ""
            terminal.say(f"{name}: epoch {last.get('epoch', len(epochs))}{value}")
        if result is not None and result.status not in ("KILLED", "PAUSED"):  # these may run again
            self._ended.add(number)
            tested = result.metrics.get("test/accuracy")
            came = f", test accuracy {percent(tested)}" if tested is not None else ""
            terminal.say(f"{name}: {result.status.lower()}{came}" + (f": {result.reason}" if result.reason else ""))

    def _due(self, number: int) -> bool:
        now = time.monotonic()
        if now - self._told.get(number, -_QUIET) < _QUIET:
            return False
        self._told[number] = now
        return True
