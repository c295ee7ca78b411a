"""Cluster jobs that carry out a sweep's runs: a file that lists them, and their states as their engine reports them.

A queued job has no heartbeat, and a killed one leaves no reason. The engine knows both.
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
"""States of jobs that are gone, for which the reason that the job itself recorded says more."""
_PICKLE = "_submitted.pkl"
"""Suffix, after the job's id, of the file in which submitit keeps the job's task from submission on."""


@dataclass(frozen=True)
class Job:
    """A job as it was submitted to the engine."""

    engine: str
    """`slurm`, or `local` for processes of this machine that submitit manages."""
    id: str
    """The engine's id of the job, e.g. `12_3`."""
    runs: tuple[str, ...]
    """Folders of its runs, relative to the sweep's; empty for the job that checks the sweep first."""
    log: str
    """File of its output."""
    asked: str = ""
    """Hash of the command line, by which a repeated command is recognised."""
    ended: bool = False
    """Whether the job itself recorded its end."""
    stopped: str | None = None
    """What ended it before its runs were done, e.g. `SIGTERM`."""
    refused: str | None = None
    """The error that it found before any run started, as one line."""

    def __str__(self) -> str:
        """Return a name for messages."""
        return f"{'Slurm' if self.engine == 'slurm' else self.engine} job {self.id}"


def note(sweep: Path, jobs: Iterable[Job]) -> None:
    """Append these jobs to the list of the `sweep`, a folder."""
    _write(sweep, "".join(json.dumps(asdict(job)) + "\n" for job in jobs))  # of an id, the last line counts


def _write(sweep: Path, lines: str) -> None:
    jobs = sweep / layout.JOBS
    with files.naming(jobs), jobs.open("a") as file:  # several processes append
        file.write(lines)
        file.flush()
        os.fsync(file.fileno())


def announce(sweep: Path, engine: str, runs: Sequence[tuple[str, ...]], folder: Path, asked: str) -> None:
    """Record, before jobs of the `sweep` are submitted, the runs of each, and the `folder` of submitit's files.

    If this process dies between submission and `note`, the jobs are found by those files.
    """
    told = {"announced": runs, "engine": engine, "folder": str(folder), "asked": asked, "there": [*_submitted(folder)]}
    _write(sweep, json.dumps(told) + "\n")


def of(sweep: Path) -> list[Job]:
    """Return the jobs of a `sweep` in order of submission; empty for a sweep without a cluster."""
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
        found |= {job.id: job for job in _announced_only(announced) if job.id not in found}
    return [*found.values()]


def _announced_only(told: Mapping[str, Any]) -> list[Job]:
    """Return the jobs that were announced and submitted but not noted, found by submitit's files."""
    engine, folder = str(told["engine"]), Path(told["folder"])
    kept = {id: when for id, when in _submitted(folder).items() if id not in told["there"]}
    order = sorted(kept, key=lambda id: (0.0 if engine == "slurm" else kept[id], *map(int, id.split("_"))))
    return [
        Job(engine, id, tuple(runs), str(folder / f"{id}_0_log.out"), str(told["asked"]))
        for id, runs in zip(order, told["announced"], strict=False)
    ]


def _submitted(folder: Path) -> dict[str, float]:
    """Return the ids of the jobs with a file of submitit in `folder`, with the modification time of the file."""
    found = {file.name.removesuffix(_PICKLE): file for file in folder.glob(f"*{_PICKLE}")}
    return {id: file.stat().st_mtime for id, file in found.items() if id.replace("_", "").isdigit()}


def by_run(sweep: Path) -> dict[str, Job]:
    """Return the latest job of each run of a `sweep`, by the run's folder relative to it."""
    return {run: job for job in of(sweep) for run in job.runs}


def in_charge(sweep: Path, runs: Iterable[str]) -> dict[str, tuple[Job, State]]:
    """Return the latest job of each of these `runs`, given by folder, with its state by the engine.

    If the job that checks and queues failed before it had queued a run, it is the job of that run.
    """
    wanted, found = [*runs], dict[str, tuple[Job, State]]()
    for job, state in states(of(sweep)):
        of_job = job.runs if job.runs or state.alive or (state.word == "COMPLETED" and not job.refused) else wanted
        found |= dict.fromkeys(of_job, (job, state))
    return found


def why(job: Job, state: State) -> str:
    """Return one line on the state of a job, the reason for the state of its runs."""
    if job.refused:
        return f"not queued: {job.refused}"
    return f"{job if job.runs else f'not queued: {job}, which checks first'}: {state}; its log is {job.log}"


def end(sweep: Path, id: str, *, stopped: str | None = None, refused: str | None = None) -> None:
    """Record, from within a job, that it has ended; the engine may report it as running for a while."""
    note(sweep, [replace(job, ended=True, stopped=stopped, refused=refused) for job in of(sweep) if job.id == id])


def alive(sweep: Path) -> list[Job]:
    """Return the jobs of a `sweep` that are running or queued."""
    return [job for job, state in states(of(sweep)) if state.alive]


def holding(folder: Path) -> Job | None:
    """Return the running or queued job of the run, or of the sweep, in `folder`; None where there is none."""
    for sweep in (folder, folder.parent, folder.parent.parent):
        if (sweep / layout.JOBS).is_file():
            name = folder.relative_to(sweep).as_posix()
            jobs = [job for job in of(sweep) if sweep == folder or name in job.runs]
            return next((job for job, state in states(jobs) if state.alive), None)
    return None


def here(sweep: Path) -> Job | None:
    """Return the job of the `sweep` in which this process runs, by submitit's environment variables; else None."""
    if (engine := os.environ.get("SUBMITIT_EXECUTOR")) is None:
        return None
    array, task = (os.environ.get(f"SLURM_ARRAY_{what}_ID") for what in ("JOB", "TASK"))
    own = os.environ.get("SLURM_JOB_ID" if engine == "slurm" else "SUBMITIT_LOCAL_JOB_ID", "")
    name = f"{array}_{task}" if array and engine == "slurm" else own
    return next((job for job in of(sweep) if job.id == name), None)


def write(folder: Path, job: Job) -> None:
    """Write the job that carries out a run into the run's `folder`."""
    files.write_json(folder / layout.JOB, {"engine": job.engine, "id": job.id, "log": job.log})


def read(folder: Path) -> Job | None:
    """Return the job that carried out the run in `folder`; None for a run without one."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        told = files.read_json(folder / layout.JOB)
        return Job(str(told["engine"]), str(told["id"]), (), str(told["log"]))
    return None


def states(jobs: Sequence[Job]) -> Iterator[tuple[Job, State]]:
    """Yield each job with its state by the engine; if the engine does not answer, a job counts as alive."""
    of_slurm = [job for job in jobs if job.engine == "slurm" and (not job.ended or job.stopped)]
    told = slurm.states(sorted({job.id.partition("_")[0] for job in of_slurm}))
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
        if job.ended and (state.alive or state.word in _NO_WORD):  # it is shutting down regularly
            state = State(f"ended by {job.stopped}", alive=False)
        yield job, state


def _local(pid: str) -> State:
    """Return the state of a local job, by the process of submitit's local executor that supervises it."""
    import psutil

    with suppress(psutil.Error, ValueError):
        if psutil.Process(int(pid)).status() != psutil.STATUS_ZOMBIE:
            return State("RUNNING")
    return State("ended", alive=False)
