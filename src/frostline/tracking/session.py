"""A sweep's record while the sweep runs: opened, mirrored to MLflow by a thread meanwhile, and closed."""

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
from frostline.records import cluster_jobs, journal, layout, sweep_record
from frostline.records.recording import Record, begin, end
from frostline.records.result import Result
from frostline.records.sweep_record import Tracker
from frostline.tracking import pending_sweeps, tracking_uri
from frostline.tracking.follower import Follower
from frostline.tracking.pending_sweeps import Place
from frostline.tracking.sync import SweepMirror

_OPEN = 10.0  # seconds to wait for a server before the first run starts without it
_CREATE = 120.0  # the same for a database: creating one takes 7 s, and many processes create it in turn
_MOMENT = 2.0  # seconds to wait where interrupts leave no time
_CLOSE = (10.0, 60.0)  # seconds to wait at the end of a sweep: while nothing moves, and in all

_followers: dict[str, Follower] = {}
"""By sweep folder: those that this process opened."""


def open_sweep(
    place: Place,
    *,
    folder: Path,
    name: str,
    tags: Mapping[str, str],
    say: Callable[[str], object] = lambda line: None,
) -> Tracker:
    """Return the tracker of a sweep, whose record is from now on mirrored to its `place` by a thread of this process.

    A `folder` that has a record goes on with that. Where MLflow does not answer, that is said in one line and the
    record waits. Raises UserError where the store or the experiment can never be used, or has another root.
    """
    facts = {
        "uri": tracking_uri.portable(place.uri, place.root),
        "experiment": place.experiment,
        "host": socket.gethostname(),
        "pid": os.getpid(),
        **({"artifacts": place.artifacts} if place.artifacts else {}),
    }
    fresh = journal.uid(folder) is None
    begin(folder, name, tags, **facts)
    with suppress(OSError):  # then `sync` must be told the folder
        pending_sweeps.remember(folder, place)  # first: of a folder that was moved the old one is forgotten with this
    follower = Follower(SweepMirror(folder, place, fresh=fresh))
    follower.start()
    _followers[str(folder)] = follower
    limit = _OPEN if tracking_uri.is_server(place.uri) else _CREATE
    reached = follower.complete(patience=limit, limit=limit)
    if isinstance(follower.problem, UserError):
        _followers.pop(str(folder)).stop(patience=1.0)
        pending_sweeps.forget(folder, place)
        raise follower.problem
    if not reached:
        why = follower.problem or f"no answer from {place.uri} in {limit:g} s"
        say(f"MLflow is away ({why}): the record is kept in {folder}, and passed on when it is back")
    return Tracker(place.uri, place.experiment, str(folder), follower.sweep.experiment_id, journal.run_id(folder))


def take_up(tracker: Tracker, root: Path) -> None:
    """Have a thread of this process mirror a sweep that another one opened, while nobody else does."""
    if tracker.folder not in _followers:
        place = pending_sweeps.place_of(Path(tracker.folder), root, tracker.uri)
        _followers[tracker.folder] = Follower(SweepMirror(Path(tracker.folder), place))
        _followers[tracker.folder].start()


def leave(tracker: Tracker) -> None:
    """Mirror no longer what was taken up, once what is written by now has reached MLflow, if that answers."""
    if (follower := _followers.pop(tracker.folder, None)) is not None:
        follower.complete(*_CLOSE)
        follower.stop(patience=1.0)


def bring(tracker: Tracker) -> None:
    """Have MLflow hear of all that is written by now, if it answers in time: then every run has its id there."""
    if (follower := _followers.get(tracker.folder)) is not None:
        patience, limit = _CLOSE
        follower.complete(patience=patience / 2, limit=limit)


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
    """Write the sweep's `description` (Markdown), `metrics`, `tags` and results, and end it and all its open runs.

    A run that is still open and gives no sign of life belongs to a process that was killed without a chance to say so.
    Waits until MLflow has it all, or for a bounded time; then one line says how the record is completed later. Returns
    False where a fault of ours, not of MLflow's, kept it back.
    """
    folder = Path(tracker.folder)
    sweep_record.end_the_dead(sweep_record.with_record(folder)[1:])
    sweep = Record(folder)
    sweep.tag(layout.NOTE_TAG, description)
    if metrics:
        sweep.metrics(metrics)
    for key, value in tags.items():
        sweep.tag(key, value)
    files.write(folder / layout.RESULTS, json.dumps([asdict(result) for result in results], indent=1, default=str))
    sweep.artifact(folder / layout.RESULTS)
    end(folder, status, None)
    follower = _followers.pop(tracker.folder)
    complete = follower.complete(*_CLOSE)
    follower.stop(patience=1.0)
    later = f"the next sweep passes it on, or `python -m frostline sync {shlex.quote(tracker.folder)}`"
    if not complete:
        say(f"MLflow does not have all of it yet ({follower.problem or 'it is too slow'}): {later}")
    elif going_on := len(sweep_record.going_on(folder)):
        say(f"MLflow will not hear of the rest of {going_on} run(s) that go on by itself: {later}")
    else:
        pending_sweeps.forget(folder, follower.sweep.place)
    return not follower.dead


@contextmanager
def ended_in_any_case(folder: Path) -> Iterator[None]:
    """End the sweep's record in `folder`, without an answer, where the block ends before that.

    KILLED by an interrupt, it is in the journal at once, with runs of which nobody gives signs of life, and in MLflow
    if that answers in a moment; else the next sweep passes it on. One more interrupt does not wait for that. By any
    other error it is FAILED, unless runs go on or wait in the queue of a cluster.
    """
    try:
        yield
    except KeyboardInterrupt:
        with suppress(OSError):  # a folder that is gone, or a disk that is full
            _break_off(folder, "KILLED")
        raise
    except Exception:
        with suppress(OSError):
            if not sweep_record.going_on(folder) and all(job.ended for job in cluster_jobs.of(folder)):
                _break_off(folder, "FAILED")
        raise


def _break_off(folder: Path, status: str) -> None:
    if journal.uid(folder) is None:  # it never began
        return
    with interrupts.deferred():
        sweep_record.end_the_dead(sweep_record.with_record(folder)[1:])
        if not journal.ended(folder):
            end(folder, status, None)
    if (follower := _followers.pop(str(folder), None)) is not None:
        complete = follower.complete(patience=_MOMENT, limit=_MOMENT)
        follower.stop(patience=0.0)
        if complete and not sweep_record.going_on(folder):
            pending_sweeps.forget(folder, follower.sweep.place)


def ui_command(uri: str, root: Path) -> str:
    """Return the shell command that shows the record at `uri`; for a tracking server its address."""
    if tracking_uri.is_server(uri):
        return uri
    own = tracking_uri.resolved(None, root) == uri  # what the command opens by itself
    return "python -m frostline ui" + ("" if own else f" --uri {shlex.quote(uri)}")
