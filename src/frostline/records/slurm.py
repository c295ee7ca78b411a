"""Job states from Slurm: squeue for running and queued jobs, sacct for ended ones, and logs for why it killed one."""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_ALIVE = frozenset(
    {
        *("PENDING", "RUNNING", "SUSPENDED", "COMPLETING", "CONFIGURING", "RESIZING", "SIGNALING", "STAGE_OUT"),
        *("STOPPED", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "SPECIAL_EXIT"),
    }
)
"""States of jobs that are running or will run (https://slurm.schedmd.com/squeue.html)."""
_ASKED = 5.0  # seconds for which an answer is cached
_PATIENCE = 30.0  # timeout of a command in seconds
_TAIL = 4096  # bytes at the end of a log that are searched
NO_REASON = ("", "None", "NonZeroExitCode")
"""Slurm's values for a state without a reason."""


@dataclass(frozen=True)
class State:
    """The state of a job, as its engine reports it."""

    word: str
    """e.g. `PENDING`, `TIMEOUT`, `CANCELLED by 1000`; empty where the engine no longer knows the job."""
    reason: str = ""
    """The engine's reason, e.g. `Resources`; empty for none."""
    alive: bool = True
    """Whether the job is running or queued."""

    def __str__(self) -> str:
        """Return the state in the engine's words."""
        word = self.word or "unknown to the engine"
        return word if self.reason in NO_REASON else f"{word} ({self.reason})"


_answers: dict[tuple[str, ...], tuple[float, dict[str, State] | None]] = {}


def states(ids: Sequence[str]) -> dict[str, State] | None:
    """Return the states of jobs and of array members by id; None where Slurm does not answer."""
    when, known = _answers.get(tuple(ids), (-_ASKED, None))
    if not ids or time.monotonic() - when < _ASKED:
        return known if ids else {}
    known = _queue(ids)
    if known is not None:  # squeue is more current; sacct knows who cancelled a job, and jobs that ended long ago
        known |= {id: state for id, state in _accounting(ids).items() if id not in known or not known[id].alive}
    _answers[tuple(ids)] = (time.monotonic(), known)
    return known


def of(id: str, told: Mapping[str, State]) -> State:
    """Return the state of a job; an array member that is missing was cancelled before it began."""
    array, _, member = id.partition("_")
    if id not in told and member and any(other.startswith(f"{array}_") for other in told):
        return State("CANCELLED", "before it began", alive=False)
    return told.get(id, State("", alive=False))


def _queue(ids: Sequence[str]) -> dict[str, State] | None:
    """Return the states from squeue, with array members listed separately; None where it does not answer."""
    asked = ["squeue", "--noheader", "--array", "--states=all", "--format=%i|%T|%r", f"--jobs={','.join(ids)}"]
    done = _asked(asked)
    if done is None or (done.returncode != 0 and "Invalid job id" not in done.stderr):
        return None
    return _parsed(done.stdout) if done.returncode == 0 else {}


def _accounting(ids: Sequence[str]) -> dict[str, State]:
    """Return the states from sacct; empty where there is no accounting."""
    fields = "JobID%40,State%40,Reason%60"
    done = _asked(["sacct", "-X", "--noheader", "--parsable2", f"--format={fields}", f"--jobs={','.join(ids)}"])
    return {} if done is None or done.returncode != 0 else _parsed(done.stdout)


def _asked(command: Sequence[str]) -> subprocess.CompletedProcess[str] | None:
    with suppress(OSError, subprocess.TimeoutExpired):
        return subprocess.run(command, capture_output=True, text=True, timeout=_PATIENCE, check=False)
    return None


def _parsed(text: str) -> dict[str, State]:
    """Return the states in lines of `id|state|reason`, by id."""
    rows = [line.split("|") for line in text.splitlines() if line.count("|") == 2]
    return {number: State(word, reason, word.partition(" ")[0] in _ALIVE) for number, word, reason in rows}


def restarts(id: str) -> int:
    """Return how often Slurm has requeued a job, including the current attempt; 0 where it does not say."""
    done = _asked(["scontrol", "show", "job", id])
    found = None if done is None else re.search(r"\bRestarts=(\d+)", done.stdout)
    return 0 if found is None else int(found[1])


def last_words(log: str) -> str:
    """Return Slurm's last error in a job's log, such as an exceeded memory limit; empty where there is none."""
    with suppress(OSError), Path(log).open("rb") as file:
        file.seek(max(0, Path(log).stat().st_size - _TAIL))
        said = re.findall(r"^slurmstepd\S*: error: (.+)$", file.read().decode(errors="replace"), re.MULTILINE)
        return next((line for line in reversed(said) if "***" not in line), "")
    return ""
