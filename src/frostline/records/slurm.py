"""What Slurm says of jobs: its queue of what runs and waits, its accounting of what ended, a log of what it killed."""

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
"""States in which a job still does something, or will (https://slurm.schedmd.com/squeue.html)."""
_ASKED = 5.0  # seconds for which an answer holds
_PATIENCE = 30.0  # seconds for it to answer
_TAIL = 4096  # bytes of a log in which its last words stand
NO_REASON = ("", "None", "NonZeroExitCode")
"""What it gives as the reason of a state where there is none."""


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
        return word if self.reason in NO_REASON else f"{word} ({self.reason})"


_answers: dict[tuple[str, ...], tuple[float, dict[str, State] | None]] = {}


def told(ids: Sequence[str]) -> dict[str, State] | None:
    """Return what Slurm says of jobs and of the members of arrays, by id; None where it does not answer."""
    when, known = _answers.get(tuple(ids), (-_ASKED, None))
    if not ids or time.monotonic() - when < _ASKED:
        return known if ids else {}
    known = _queue(ids)
    if known is not None:  # the queue knows best, but by whom a job was cancelled, and forgets what ended minutes ago
        known |= {id: state for id, state in _accounting(ids).items() if id not in known or not known[id].alive}
    _answers[tuple(ids)] = (time.monotonic(), known)
    return known


def of(id: str, told: Mapping[str, State]) -> State:
    """Return what Slurm says of a job; a member of an array that was cancelled before it began is simply not there."""
    array, _, member = id.partition("_")
    if id not in told and member and any(other.startswith(f"{array}_") for other in told):
        return State("CANCELLED", "before it began", alive=False)
    return told.get(id, State("", alive=False))


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


def restarts(id: str) -> int:
    """Return how often Slurm has queued a job again, the time just begun included; 0 where it does not say."""
    done = _asked(["scontrol", "show", "job", id])
    found = None if done is None else re.search(r"\bRestarts=(\d+)", done.stdout)
    return 0 if found is None else int(found[1])


def last_words(log: str) -> str:
    """Return what Slurm wrote into a job's log when it killed that, such as its memory limit; empty for nothing."""
    with suppress(OSError), Path(log).open("rb") as file:
        file.seek(max(0, Path(log).stat().st_size - _TAIL))
        said = re.findall(r"^slurmstepd\S*: error: (.+)$", file.read().decode(errors="replace"), re.MULTILINE)
        return next((line for line in reversed(said) if "***" not in line), "")
    return ""
