"""Lifecycle of a sweep's record: opens it, mirrors it to MLflow in a thread while the sweep runs, and closes it."""

from __future__ import annotations

import json
import os
import shlex
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType

from frostline.core import files, interrupts
from frostline.core.errors import UserError
from frostline.records import cluster_jobs, journal, layout, run_folders
from frostline.records.recording import Record, begin, end, end_the_dead
from frostline.records.result import Result
from frostline.records.sweep_facts import Tracker
from frostline.tracking import pending_sweeps, tracking_uri
from frostline.tracking.mirror_thread import MirrorThread
from frostline.tracking.pending_sweeps import RecordPlace
from frostline.tracking.sync import SweepMirror

_OPEN = 10.0  # seconds to wait for a server before the first run starts without it
_CREATE = 120.0  # the same for a database: creating one takes 7 s, and many processes may queue for it
_MOMENT = 2.0  # seconds to wait after an interrupt
_CLOSE = (10.0, 60.0)  # seconds to wait at the end of a sweep: without progress, and in all

_threads: dict[str, MirrorThread] = {}
"""The threads of this process that mirror sweeps, by sweep folder."""


def open_sweep(
    place: RecordPlace,
    *,
    folder: Path,
    name: str,
    tags: Mapping[str, str],
    say: Callable[[str], object] = lambda line: None,
) -> Tracker:
    """Open the record of a sweep, start a thread that mirrors it to its `place`, and return the sweep's tracker.

    A record that `folder` has already is continued. If MLflow does not answer, `say` gets one line, and the record
    waits on disk. Raises UserError if the store or the experiment can never be used, or has another artifact root.
    """
    fresh, uri = journal.uid(folder) is None, tracking_uri.portable(place.uri)
    facts = {"uri": uri, "experiment": place.experiment, "host": socket.gethostname(), "pid": os.getpid()}
    begin(folder, name, tags, **facts, **({"artifacts": place.artifacts} if place.artifacts else {}))
    with suppress(OSError):  # without the register, `sync` needs the folder as its argument
        pending_sweeps.remember(folder, place)  # before mirroring; it also replaces the entry of a moved folder
    thread = _mirror(SweepMirror(folder, place, fresh=fresh))
    limit = _OPEN if tracking_uri.is_server(place.uri) else _CREATE
    reached = thread.complete(patience=limit, limit=limit)
    if isinstance(thread.problem, UserError):
        _threads.pop(str(folder)).stop(patience=1.0)
        pending_sweeps.forget(folder, place)
        raise thread.problem
    if not reached:
        why = thread.problem or f"no answer from {place.uri} in {limit:g} s"
        say(f"MLflow does not have the record yet ({why}): it is kept in {folder}, and sent later")
    return Tracker(place.uri, place.experiment, str(folder), thread.sweep.experiment_id, journal.run_id(folder))


def _mirror(sweep: SweepMirror) -> MirrorThread:
    """Return a thread that mirrors a sweep from now on."""
    thread = MirrorThread(sweep)
    thread.start()
    _threads[str(sweep.folder)] = thread
    return thread


def take_up(tracker: Tracker) -> None:
    """Start a thread that mirrors a sweep which another process opened, whenever no other process does."""
    if tracker.folder not in _threads:
        folder = Path(tracker.folder)
        _mirror(SweepMirror(folder, pending_sweeps.place_of(folder, tracker.uri)))


def leave(tracker: Tracker) -> None:
    """Stop mirroring a sweep that was taken up, after sending what is written by now, if MLflow answers in time."""
    if (thread := _threads.pop(tracker.folder, None)) is not None:
        thread.complete(*_CLOSE)
        thread.stop(patience=1.0)


def flush(tracker: Tracker) -> None:
    """Send all that is written by now to MLflow, if it answers in time; then every run has its id there."""
    if (thread := _threads.get(tracker.folder)) is not None:
        patience, limit = _CLOSE
        thread.complete(patience=patience / 2, limit=limit)


def close_sweep(
    tracker: Tracker,
    *,
    status: str,
    description: str,
    results: Sequence[Result],
    metrics: Mapping[str, float] = MappingProxyType({}),
    tags: Mapping[str, str] = MappingProxyType({}),
    say: Callable[[str], object] = lambda line: None,
) -> bool:
    """Write the sweep's `description` (Markdown), `metrics`, `tags` and results, and end the sweep and its dead runs.

    An open run without signs of life belongs to a process that was killed, and ends KILLED. Waits until MLflow has the
    whole record, for a bounded time; then `say` gets one line on how to complete the record later. Returns False if the
    mirror died of a fault in frostline.
    """
    folder = Path(tracker.folder)
    end_the_dead(run_folders.with_record(folder)[1:])
    _write_answer(folder, {layout.NOTE_TAG: description, **tags}, metrics, results)
    end(folder, status, None)
    thread = _threads.pop(tracker.folder)
    complete = thread.complete(*_CLOSE)
    thread.stop(patience=1.0)
    command = f"`python -m frostline sync {shlex.quote(tracker.folder)}`"
    later = f"the next sweep with the same tracking URI sends the rest, or {command}"
    if not complete:
        say(f"MLflow does not have the whole record yet ({thread.problem or 'it is too slow'}): {later}")
    elif going_on := len(run_folders.going_on(folder)):
        say(f"MLflow does not have the whole record yet ({going_on} run(s) go on): {later}")
    else:
        pending_sweeps.forget(folder, thread.sweep.place)
    return not thread.dead


def _write_answer(
    folder: Path, tags: Mapping[str, str], metrics: Mapping[str, float], results: Sequence[Result]
) -> None:
    sweep = Record(folder)
    for key, value in tags.items():
        sweep.tag(key, value)
    if metrics:
        sweep.metrics(metrics)
    files.write(folder / layout.RESULTS, json.dumps([asdict(result) for result in results], indent=1, default=str))
    sweep.artifact(folder / layout.RESULTS)


@contextmanager
def ended_in_any_case(folder: Path) -> Iterator[None]:
    """End the sweep's record in `folder`, without a verdict, if the block raises before the record is closed.

    After an interrupt, the sweep and its runs without signs of life end KILLED: in the journal at once, in MLflow if it
    answers within seconds, else by the next sweep. A second interrupt skips that wait. After any other error the sweep
    ends FAILED, unless runs go on or wait in the queue of a cluster.
    """
    try:
        yield
    except KeyboardInterrupt:
        with suppress(OSError):  # the folder is gone, or the disk is full
            _break_off(folder, "KILLED")
        raise
    except Exception:
        with suppress(OSError):
            if not run_folders.going_on(folder) and all(job.ended for job in cluster_jobs.of(folder)):
                _break_off(folder, "FAILED")
        raise


def _break_off(folder: Path, status: str) -> None:
    if journal.uid(folder) is None:  # it never began
        return
    with interrupts.deferred():
        end_the_dead(run_folders.with_record(folder)[1:])
        if not journal.ended(folder):
            end(folder, status, None)
    if (thread := _threads.pop(str(folder), None)) is not None:
        complete = thread.complete(patience=_MOMENT, limit=_MOMENT)
        thread.stop(patience=0.0)
        if complete and not run_folders.going_on(folder):
            pending_sweeps.forget(folder, thread.sweep.place)


def ui_command(uri: str) -> str:
    """Return the shell command that opens MLflow on the store at `uri`; for a tracking server, its address."""
    if tracking_uri.is_server(uri):
        return uri
    own = tracking_uri.resolved(None) == uri  # the command's default
    return "python -m frostline ui" + ("" if own else f" --uri {shlex.quote(uri)}")
