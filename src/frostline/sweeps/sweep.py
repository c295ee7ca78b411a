"""A sweep, from its jobs to its answer: every run is composed and checked before the first one starts."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Protocol

from omegaconf import DictConfig

from frostline.core import interrupts, project
from frostline.core.config import Config
from frostline.core.config_keys import digest
from frostline.records import heartbeat, layout, liveness, run_folders, sweep_record
from frostline.records.recording import Record
from frostline.records.result import Result
from frostline.records.sweep_record import Tracker
from frostline.sweeps import already_finished, closing, data_index, job, unused_keys
from frostline.sweeps.closing import as_planned, close, repeat
from frostline.sweeps.cluster import Cluster
from frostline.sweeps.compose import Overrides, PlannedRun, compose_all, in_order, settled, sweep_folder, to_check
from frostline.sweeps.executor import Executor, Further
from frostline.sweeps.first_job import send
from frostline.sweeps.lockstep_groups import stacked
from frostline.sweeps.ownership import claim
from frostline.sweeps.pool import WorkerDied
from frostline.sweeps.preflight import check, fingerprints
from frostline.sweeps.resume import Past
from frostline.sweeps.skip_or_resume import NAMED, Takeover, facts_of
from frostline.tracking import artifact_root, server, session


def run_sweep(
    jobs: Sequence[Overrides],
    *,
    compose: Callable[[Overrides], DictConfig],
    executor: Executor,
    folder_named: bool,
    claimed: bool = False,
) -> int:
    """Check and run every job, draw the result, and return the exit status: 0 if every run is FINISHED.

    `compose` returns the config of a job, `executor` carries jobs out. A folder that the person named must be free
    (`folder_named`); for any other another one beside it is taken; one that is `claimed` this process was given.
    Raises `UserError` before any run starts.
    """
    here = not (isinstance(executor, Cluster) or claimed)
    earlier = already_finished.Earlier(
        len(jobs) if here else 0, sweep_folder(compose, jobs[0]) if folder_named else None
    )
    folder, planned = compose_all(jobs, compose, partial(_start, executor, earlier))
    typed = {
        key.lstrip("+"): value for overrides in jobs for key, _, value in (one.partition("=") for one in overrides)
    }
    for line in [*unused_keys.check(typed, [run.config for run in planned]), *_once(planned)]:
        job.screen().say(line, "yellow")
    if earlier.found:
        if (answered := earlier.answer(planned)) is not None:
            repeat(answered)
            return 0
        executor.start(planned[0].config)
    if isinstance(executor, Cluster) and not claimed:
        status = send(jobs, planned, executor, folder, named=folder_named, run=run_sweep)
        if status is not None:
            return status
    return run_planned(
        planned,
        executor=executor,
        folder=folder,
        folder_named=folder_named,
        earlier=planned[0].config.resume,
        claimed=claimed,
    )


def _start(executor: Executor, earlier: already_finished.Earlier, first: Config) -> None:
    """Get the workers ready, unless there may be nothing to do for them."""
    if not earlier.may_be(first):
        executor.start(first)


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


def run_planned(
    planned: Sequence[PlannedRun],
    *,
    executor: Executor,
    folder: Path,
    folder_named: bool,
    earlier: bool = False,
    rounds: Rounds | None = None,
    claimed: bool = False,
) -> int:
    """Check and run what is planned, draw the result, and return the exit status as `run_sweep` does.

    With `earlier` what earlier sweeps did is left out or gone on with. Where there are `rounds` these say what runs,
    one round after the other, and what is `planned` only shows whether it can.
    """
    config = planned[0].config
    root = project.project_root()
    uri, artifacts = server.tracking_uri(config.tracking.uri, root), artifact_root.chosen(config.tracking.artifacts)
    run_folders.require_free(folder)
    if rounds is None:
        run_folders.require_same(folder, [run.folder for run in planned])
    many = rounds is None and len(planned) > NAMED
    index = data_index.index([run.config for run in planned]) if many else None  # before anybody looks at the data
    meanwhile = (lambda: None) if config.dry_run else partial(server.load, models=False)
    try:
        auto = executor.ask(partial(check, to_check(planned)), meanwhile)
        identity = None if rounds is None else rounds.settle(auto, lambda all: executor.ask(partial(fingerprints, all)))
    except WorkerDied as death:
        closing.show(closing.never_begun(folder, planned, death))
        return 1
    planned = settled(planned, auto)
    if claimed:
        liveness.write(folder / layout.OWNER)
    else:
        folder = claim(
            folder,
            [digest(run.config) for run in planned],
            search=identity,
            again=earlier and not config.dry_run,
            elsewhere=None if folder_named else lambda own: None,
        )
    if not config.dry_run:
        data_index.write(folder, index)
    tracker = None if config.dry_run else _open(config, uri, artifacts, root, folder)
    with (
        heartbeat.beating(folder / layout.OWNER) as heart,
        heart.telling(partial(_tell, folder, rounds)) if tracker else nullcontext(),
    ):
        takeover = None
        if tracker and (earlier or rounds):
            digests = {digest(run.config) for run in planned} if rounds is None else None
            wanted = digests if earlier else ()  # what others do in one study counts in any case
            takeover = Takeover(tracker, folder, root=root, heart=heart, ask=executor.ask, digests=wanted)
        sweep = _Sweep(executor, folder, tracker, takeover, identity)
        if rounds is None:
            interrupt = sweep.carry_out(planned)
        else:
            past = takeover.finished if takeover else lambda _: ()
            rounds.begin(folder if tracker else None, executor.workers, past)
            interrupt = sweep.carry_out_rounds(rounds)
    if tracker is not None and interrupt is None and (status := executor.leave(folder)) is not None:
        return status
    if not sweep_record.Shared.there(folder):  # what is written here now would say of every run that it never was
        raise OSError(errno.ENOENT, "moved or removed while the sweep ran", str(folder))
    if tracker is not None:
        session.bring(tracker)
    results = sweep.results()
    recorded = close(folder, tracker, results, interrupt)
    if interrupt is not None:
        return interrupts.status(interrupt)
    return 0 if recorded and all(map(as_planned, results)) else 1


def _tell(folder: Path, rounds: Rounds | None, sign: str) -> None:
    """Let others know that the sweep goes on: where it is recorded, and where it is searched with them."""
    Record(folder).tag(layout.SIGN_TAG, sign)
    if rounds is not None:
        rounds.alive()


def _once(planned: Sequence[PlannedRun]) -> list[str]:
    """Return a line for every run that was asked for several times, with other values of what it does not read."""
    return [
        f"{run.name}: one run, not {run.jobs}, as {run.config.freeze_mode.name} does not read {', '.join(run.unread)}"
        for run in planned
        if run.jobs > 1
    ]


class _Sweep:
    """Owner of what is known of the runs of a sweep, which may become more as it goes on."""

    def __init__(
        self, executor: Executor, folder: Path, tracker: Tracker | None, takeover: Takeover | None, search: str | None
    ) -> None:
        self._executor, self._folder, self._takeover = executor, folder, takeover
        self._workers = executor.workers if tracker else 0
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
            facts = stacked([run.config for run in further], own, self._workers, first=first)
            self._facts += facts
            for number in on:
                self._facts[number] = replace(self._facts[number], stack=None, of_steps={})
            self._file.add(facts, {number: self._facts[number] for number in on})
        numbers = [*on, *(first + number for number in in_order(further))]
        return {number: self._facts[number].stack for number in numbers if self._facts[number].to_do}

    def carry_out_rounds(self, rounds: Rounds) -> KeyboardInterrupt | None:
        """Carry out all rounds; return the interrupt if there was one, while runs went on or between them."""
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


def _open(config: Config, uri: str, artifacts: str | None, root: Path, folder: Path) -> Tracker:
    name = f"{folder.parent.name} {folder.name}"
    sweep = str(folder.relative_to(root) if folder.is_relative_to(root) else folder)
    code = {layout.SOURCE_TAG: project.source_sha256()}
    tags = {layout.SWEEP_TAG: sweep, layout.FOLDER_TAG: str(folder), **code, **liveness.me().tags()}
    return session.open_sweep(
        uri,
        folder=folder,
        root=root,
        experiment_name=config.experiment_name,
        name=name,
        tags=tags,
        artifacts=artifacts,
        say=job.screen().say,
    )


def _run(
    executor: Executor, jobs: Mapping[int, int | None], further: Further
) -> tuple[Mapping[int, Exception], KeyboardInterrupt | None]:
    """Run the jobs; returns why some came to nothing, and the interrupt if there was one."""
    try:
        return executor.run(jobs, further), None
    except KeyboardInterrupt as interrupt:
        return {}, interrupt
