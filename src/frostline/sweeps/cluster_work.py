"""The work of a job on a cluster: its runs, signals of the engine, and the job's end in the sweep's folder.

The last job of a sweep writes the results.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.utils import setup_globals

from frostline.core import interrupts, project
from frostline.records import cluster_jobs, slurm
from frostline.records.recording import reason_of
from frostline.records.sweep_facts import SweepFacts
from frostline.sweeps import closing
from frostline.tracking import session

log = logging.getLogger(__name__)
_WARNING = f"SIG{os.environ.get('SUBMITIT_PREEMPT_SIGNAL', 'USR2')}"
"""The signal that submitit asks for before the time limit."""


@dataclass(frozen=True)
class Batch:
    """The runs of one job, one after the other."""

    launcher: Any
    sweep: Path
    orders: Sequence[tuple[int, Sequence[str]]]
    """The number and the overrides of each run."""
    state: Any
    """Hydra's state where the job was queued."""

    def __call__(self) -> None:
        """Carry out the runs, and write the sweep's results if no other job of it is left."""
        setup_globals()
        project.register_resolver()
        as_job(self.sweep, self._carry_out, fault="a job failed")

    def _carry_out(self) -> None:
        tracker = SweepFacts.read(self.sweep).tracker
        if tracker is not None:
            session.take_up(tracker)
        for number, overrides in self.orders:
            self.launcher(list(overrides), "hydra.sweep.dir", number, "", self.state)
        if tracker is not None:  # not after an interrupt, which leaves no time for MLflow
            session.leave(tracker)


def as_job(sweep: Path, work: Callable[[], str | None], *, fault: str) -> None:
    """Do the work of a job of the `sweep`, note its end in the sweep's folder, and write the results if it was last.

    `work` returns a user error that it found before any run started, or None. After an exception, which is logged as
    `fault`, or an interrupt, the process exits with status 1.
    """
    queue_again, own = _listen(), cluster_jobs.here(sweep)
    refused = stopped = None
    try:
        refused = work()
    except KeyboardInterrupt as interrupt:
        stopped = _ended_by(interrupt, own, queue_again)
    except Exception as error:
        stopped = reason_of(error)
        log.exception(fault)
    if own is not None:
        cluster_jobs.end(sweep, own.id, stopped=stopped, refused=refused)
    closing.close_if_over(sweep)
    if stopped is not None:
        raise SystemExit(1)


def _preempted(job: cluster_jobs.Job) -> bool:
    """Return whether a job that received SIGTERM was preempted, and neither cancelled nor timed out, by its state."""
    ((_, state),) = cluster_jobs.states([job])
    return job.engine == "slurm" and state.word in ("RUNNING", "PREEMPTED")


def _queued_again(job: cluster_jobs.Job) -> bool:
    """Return whether Slurm has requeued this process's job by itself, as it does after preemption."""
    return job.engine == "slurm" and slurm.restarts(job.id) > int(os.environ.get("SLURM_RESTART_COUNT", "0"))


def _ended_by(interrupt: KeyboardInterrupt, own: cluster_jobs.Job | None, queue_again: Callable[[], str]) -> str:
    """Return the reason why this process's `own` job ended; exit the process if the job is queued again."""
    stopped = interrupts.name(interrupt)
    if own is not None and _queued_again(own):
        raise SystemExit(1)
    if stopped == _WARNING or (own is not None and _preempted(own)):
        return f"{stopped} ({queue_again()})"
    return stopped


def _listen() -> Callable[[], str]:
    """Let signals end a run of this process like Ctrl-C, with a checkpoint, in place of submitit's handler.

    Returns a function that calls submitit's handler afterwards: the engine queues the job again and the process exits,
    or the function returns why not.
    """
    warning = getattr(signal, _WARNING)
    queue_again = signal.getsignal(warning)
    interrupts.install(warning=warning, once=True)

    def call() -> str:
        try:
            if callable(queue_again):
                queue_again(warning, None)
        except (RuntimeError, OSError, subprocess.SubprocessError) as error:  # e.g. the limit of requeues is reached
            return reason_of(error)
        return "not queued again"

    return call
