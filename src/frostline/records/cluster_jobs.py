"""Jobs of a cluster that carry out a sweep's runs: which there are, and what their engine says of them.

A job that waits in a queue gives no sign of life, and one that was killed says nothing of why. The engine knows both.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from frostline.core import files
from frostline.records import layout

_ALIVE = frozenset(
    {
        *("PENDING", "RUNNING", "SUSPENDED", "COMPLETING", "CONFIGURING", "RESIZING", "SIGNALING", "STAGE_OUT"),
        *("STOPPED", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "SPECIAL_EXIT"),
    }
)
"""States in which a job of Slurm still does something, or will (https://slurm.schedmd.com/squeue.html)."""
_ASKED = 5.0  # seconds for which an answer of the engine holds
_PATIENCE = 30.0  # seconds for it to answer
_TAIL = 4096  # bytes of a log in which its last words stand
_NONE = ("", "None", "NonZeroExitCode")


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


@dataclass(frozen=True)
class State:
    """What an engine says of a job."""

    word: str
    """e.g. `PENDING`, `TIMEOUT`, `CANCELLED by 1000`; empty where it knows nothing of it any more."""
    reason: str = ""
    """Its own, e.g. `Resources`; empty for none."""
    alive: bool = True
    """Whether the job runs or will."""

    def __str__(self) -> str:
        """Say it as the engine does."""
        word = self.word or "unknown to the engine"
        return word if self.reason in _NONE else f"{word} ({self.reason})"


def note(sweep: Path, jobs: Iterable[Job]) -> None:
    """Write down that these jobs carry out runs of the `sweep`."""
    text = "".join(json.dumps(asdict(job)) + "\n" for job in jobs)  # of an id that is there, what is said last counts
    with (sweep / layout.JOBS).open("a") as file:  # several processes may, one after the other
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def of(sweep: Path) -> list[Job]:
    """Return the jobs of a `sweep` in the order in which they were handed over; none where it needed none."""
    found: dict[str, Job] = {}
    with suppress(OSError):
        for line in (sweep / layout.JOBS).read_text().splitlines():
            with suppress(ValueError, KeyError, TypeError):
                values = files.parsed(line.encode())
                found[values["id"]] = Job(**{**values, "runs": tuple(values["runs"])})
    return [*found.values()]


def by_run(sweep: Path) -> dict[str, Job]:
    """Return the latest job of each run of a `sweep`, by the run's folder relative to it."""
    return {run: job for job in of(sweep) for run in job.runs}


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
    told = _slurm(sorted({job.id.partition("_")[0] for job in of_slurm}))
    for job in jobs:
        if job.ended and not job.stopped:
            state = State("COMPLETED", alive=False)
        elif job.engine != "slurm":
            state = _local(job.id)
        elif told is None:
            state = State("UNKNOWN", "Slurm does not answer")
        else:
            state = _of(job, told)
        if state.word == "FAILED" and state.reason in _NONE:
            state = replace(state, reason=_last_words(job.log))
        if job.ended and (state.alive or state.word == "COMPLETED"):  # it closes up in good order
            state = State(f"ended by {job.stopped}", alive=False)
        yield job, state


_answers: dict[tuple[str, ...], tuple[float, dict[str, State] | None]] = {}


def _slurm(ids: Sequence[str]) -> dict[str, State] | None:
    """Return what Slurm says of jobs and of the members of arrays, by id; None where it does not answer."""
    when, told = _answers.get(tuple(ids), (-_ASKED, None))
    if not ids or time.monotonic() - when < _ASKED:
        return told if ids else {}
    told = _queue(ids)
    if told is not None:  # the queue knows best, but by whom a job was cancelled, and forgets what ended minutes ago
        told |= {id: state for id, state in _accounting(ids).items() if id not in told or not told[id].alive}
    _answers[tuple(ids)] = (time.monotonic(), told)
    return told


def _of(job: Job, told: Mapping[str, State]) -> State:
    """Return what Slurm says of a job; a member of an array that was cancelled before it began is simply not there."""
    array, _, member = job.id.partition("_")
    if job.id not in told and member and any(id.startswith(f"{array}_") for id in told):
        return State("CANCELLED", "before it began", alive=False)
    return told.get(job.id, State("", alive=False))


def _queue(ids: Sequence[str]) -> dict[str, State] | None:
    """Return what squeue says, one line per member of an array."""
    asked = ["squeue", "--noheader", "--array", "--states=all", "--format=%i|%T|%r", f"--jobs={','.join(ids)}"]
    done = _asked(asked)
    if done is None or (done.returncode != 0 and "Invalid job id" not in done.stderr):
        return None
    return _parsed(done.stdout) if done.returncode == 0 else {}


def _accounting(ids: Sequence[str]) -> dict[str, State]:
    """Return what sacct says; nothing where there is no accounting."""
    fields = "JobID%40,State%40,Reason%60"
    done = _asked(["sacct", "-X", "--noheader", "--parsable2", f"--format={fields}", f"--jobs={','.join(ids)}"])
    return {} if done is None or done.returncode != 0 else _parsed(done.stdout)


def _asked(command: Sequence[str]) -> subprocess.CompletedProcess[str] | None:
    with suppress(OSError, subprocess.TimeoutExpired):
        return subprocess.run(command, capture_output=True, text=True, timeout=_PATIENCE, check=False)
    return None


def _parsed(text: str) -> dict[str, State]:
    """Return the states that lines of `id|state|reason` tell, by id."""
    rows = [line.split("|") for line in text.splitlines() if line.count("|") == 2]
    return {number: State(word, reason, word.partition(" ")[0] in _ALIVE) for number, word, reason in rows}


def _last_words(log: str) -> str:
    """Return what Slurm wrote into a job's log when it killed that, such as its memory limit; empty for nothing."""
    with suppress(OSError), Path(log).open("rb") as file:
        file.seek(max(0, Path(log).stat().st_size - _TAIL))
        said = re.findall(r"^slurmstepd\S*: error: (.+)$", file.read().decode(errors="replace"), re.MULTILINE)
        return next((line for line in reversed(said) if "***" not in line), "")
    return ""


def _local(pid: str) -> State:
    """Return whether the process is there that submitit's executor of this machine has look after a job."""
    import psutil

    with suppress(psutil.Error, ValueError):
        if psutil.Process(int(pid)).status() != psutil.STATUS_ZOMBIE:
            return State("RUNNING")
    return State("ended", alive=False)
