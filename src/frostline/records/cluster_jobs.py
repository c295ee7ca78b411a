"""Jobs of a cluster that carry out a sweep's runs: which there are, and what their engine says of them.

A job that waits in a queue gives no sign of life, and one that was killed says nothing of why. The engine knows both.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from frostline.core import files
from frostline.records import layout, slurm
from frostline.records.slurm import NO_REASON, State

_NO_WORD = ("COMPLETED", "ended", "")
"""What an engine says of a job that is no more, and ended itself before its runs were done."""
_PICKLE = "_submitted.pkl"
"""Behind the name of a job: the file in which submitit keeps what that is to do, from when it is handed over."""


@dataclass(frozen=True)
class Job:
    """A job as it was handed to the engine."""

    engine: str
    """`slurm`, or `local` for processes of this machine that submitit looks after."""
    id: str
    """The engine's own name of it, e.g. `12_3`."""
    runs: tuple[str, ...]
    """Folders of its runs, relative to the sweep's; none for the one that checks."""
    log: str
    """File of what it prints."""
    asked: str = ""
    """Hash of what was typed, so that the same again is known."""
    ended: bool = False
    """Whether it said itself that it came to its end."""
    stopped: str | None = None
    """What ended it before its runs were done, e.g. `SIGTERM`."""
    refused: str | None = None
    """What it found wrong before any run started, as one line."""

    def __str__(self) -> str:
        """Name it for people."""
        return f"{'Slurm' if self.engine == 'slurm' else self.engine} job {self.id}"


def note(sweep: Path, jobs: Iterable[Job]) -> None:
    """Write down that these jobs carry out runs of the `sweep`."""
    _write(sweep, "".join(json.dumps(asdict(job)) + "\n" for job in jobs))  # of an id, what is said last counts


def _write(sweep: Path, lines: str) -> None:
    with (sweep / layout.JOBS).open("a") as file:  # several processes may, one after the other
        file.write(lines)
        file.flush()
        os.fsync(file.fileno())


def announce(sweep: Path, engine: str, runs: Sequence[tuple[str, ...]], folder: Path, asked: str) -> None:
    """Write down, before jobs of the `sweep` are handed over, the runs of each, and where submitit keeps its files.

    Whoever dies before it could `note` them leaves jobs that only those files name.
    """
    told = {"announced": runs, "engine": engine, "folder": str(folder), "asked": asked, "there": [*_kept(folder)]}
    _write(sweep, json.dumps(told) + "\n")


def of(sweep: Path) -> list[Job]:
    """Return the jobs of a `sweep` in the order in which they were handed over; none where it needed none."""
    found: dict[str, Job] = {}
    announced: dict[str, Any] = {}
    open_: set[tuple[str, ...]] = set()
    with suppress(OSError):
        for line in (sweep / layout.JOBS).read_text().splitlines():
            with suppress(ValueError, KeyError, TypeError):
                values = files.parsed(line.encode())
                if "announced" in values:
                    announced, open_ = values, {tuple(runs) for runs in values["announced"]}
                    continue
                job = Job(**{**values, "runs": tuple(values["runs"])})
                found[job.id] = job
                open_.discard(job.runs)
    if open_:
        found |= {job.id: job for job in _unsaid(announced) if job.id not in found}
    return [*found.values()]


def _unsaid(told: Mapping[str, Any]) -> list[Job]:
    """Return the jobs that were handed over after they were announced, as submitit's files name them."""
    engine, folder = str(told["engine"]), Path(told["folder"])
    kept = {id: when for id, when in _kept(folder).items() if id not in told["there"]}
    order = sorted(kept, key=lambda id: (0.0 if engine == "slurm" else kept[id], *map(int, id.split("_"))))
    return [
        Job(engine, id, tuple(runs), str(folder / f"{id}_0_log.out"), str(told["asked"]))
        for id, runs in zip(order, told["announced"], strict=False)
    ]


def _kept(folder: Path) -> dict[str, float]:
    """Return the jobs of which submitit keeps a file in its `folder`, by name with the time of that."""
    found = {file.name.removesuffix(_PICKLE): file for file in folder.glob(f"*{_PICKLE}")}
    return {id: file.stat().st_mtime for id, file in found.items() if id.replace("_", "").isdigit()}


def by_run(sweep: Path) -> dict[str, Job]:
    """Return the latest job of each run of a `sweep`, by the run's folder relative to it."""
    return {run: job for job in of(sweep) for run in job.runs}


def in_charge(sweep: Path, runs: Iterable[str]) -> dict[str, tuple[Job, State]]:
    """Return the latest job of each of these `runs`, given by folder, and what its engine says of it.

    That is the one which checks and queues where it came to nothing before it had queued the run.
    """
    wanted, found = [*runs], dict[str, tuple[Job, State]]()
    for job, state in states(of(sweep)):
        of_job = job.runs if job.runs or state.alive or (state.word == "COMPLETED" and not job.refused) else wanted
        found |= dict.fromkeys(of_job, (job, state))
    return found


def why(job: Job, state: State) -> str:
    """Return in one line what became of a job, and so of its runs."""
    if job.refused:
        return f"not queued: {job.refused}"
    return f"{job if job.runs else f'not queued: {job}, which checks first'}: {state}; its log is {job.log}"


def end(sweep: Path, id: str, *, stopped: str | None = None, refused: str | None = None) -> None:
    """Write down, in the job itself, that it came to its end, whatever the engine says of it for a while."""
    note(sweep, [replace(job, ended=True, stopped=stopped, refused=refused) for job in of(sweep) if job.id == id])


def alive(sweep: Path) -> list[Job]:
    """Return the jobs of a `sweep` that run or will."""
    return [job for job, state in states(of(sweep)) if state.alive]


def holding(folder: Path) -> Job | None:
    """Return the job that has the run in `folder`, or the sweep there, now or later; None where there is none."""
    for sweep in (folder, folder.parent, folder.parent.parent):
        if (sweep / layout.JOBS).is_file():
            name = folder.relative_to(sweep).as_posix()
            jobs = [job for job in of(sweep) if sweep == folder or name in job.runs]
            return next((job for job, state in states(jobs) if state.alive), None)
    return None


def here(sweep: Path) -> Job | None:
    """Return the job of the `sweep` that this process is in, as submitit's environment names it; None in none."""
    if (engine := os.environ.get("SUBMITIT_EXECUTOR")) is None:
        return None
    array, task = (os.environ.get(f"SLURM_ARRAY_{what}_ID") for what in ("JOB", "TASK"))
    own = os.environ.get("SLURM_JOB_ID" if engine == "slurm" else "SUBMITIT_LOCAL_JOB_ID", "")
    name = f"{array}_{task}" if array and engine == "slurm" else own
    return next((job for job in of(sweep) if job.id == name), None)


def write(folder: Path, job: Job) -> None:
    """Write into the `folder` of a run which job carries it out."""
    files.write_json(folder / layout.JOB, {"engine": job.engine, "id": job.id, "log": job.log})


def read(folder: Path) -> Job | None:
    """Return the job that carried out the run in `folder`; None where none did."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        told = files.read_json(folder / layout.JOB)
        return Job(str(told["engine"]), str(told["id"]), (), str(told["log"]))
    return None


def states(jobs: Sequence[Job]) -> Iterator[tuple[Job, State]]:
    """Yield each job with what its engine says of it; where that does not answer, a job counts as alive."""
    of_slurm = [job for job in jobs if job.engine == "slurm" and (not job.ended or job.stopped)]
    told = slurm.told(sorted({job.id.partition("_")[0] for job in of_slurm}))
    for job in jobs:
        if job.ended and not job.stopped:
            state = State("COMPLETED", alive=False)
        elif job.engine != "slurm":
            state = _local(job.id)
        elif told is None:
            state = State("UNKNOWN", "Slurm does not answer")
        else:
            state = slurm.of(job.id, told)
        if state.word == "FAILED" and state.reason in NO_REASON:
            state = replace(state, reason=slurm.last_words(job.log) or job.stopped or "")
        if job.ended and (state.alive or state.word in _NO_WORD):  # it closes up in good order
            state = State(f"ended by {job.stopped}", alive=False)
        yield job, state


def _local(pid: str) -> State:
    """Return whether the process is there that submitit's executor of this machine has look after a job."""
    import psutil

    with suppress(psutil.Error, ValueError):
        if psutil.Process(int(pid)).status() != psutil.STATUS_ZOMBIE:
            return State("RUNNING")
    return State("ended", alive=False)
