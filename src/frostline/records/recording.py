"""Writing the record of a sweep or run: metrics, tags, params, artifacts and the end, into the journal of its folder.

A run needs no MLflow: it writes to the journal, and the process that opened the sweep sends that to MLflow. So a slow
or unavailable server delays nothing, and a killed process loses nothing that it has written.
"""

from __future__ import annotations

import math
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from frostline.core import credentials
from frostline.core.errors import UserError
from frostline.records import journal, layout, liveness
from frostline.records.layout import NOTE_TAG, REASON_TAG

GONE = "the process of this run ended without recording a reason"
"""Reason of an end that another process wrote, since the run's process was gone."""

_LONGEST = 500  # characters of a reason that are kept
_latest = 0


class Paused(BaseException):
    """A run pauses after an epoch, and may resume from its checkpoint later; this is no failure."""

    def __init__(self, epochs: int, seconds: float) -> None:
        """Pause after so many epochs, and seconds of training."""
        super().__init__(f"waits after epoch {epochs}")
        self.epochs, self.seconds = epochs, seconds


class Record:
    """The record of one run while it is written, in the journal of its folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def metrics(self, values: Mapping[str, float], step: int = 0) -> None:
        """Write `values` at `step` (an epoch, 1-based). Infinity is written as nan, since SQL stores would clip it."""
        finite = {key: float(value) if math.isfinite(value) else math.nan for key, value in values.items()}
        journal.append(self._folder, "metrics", sync=True, step=step, time=now(), values=finite)

    def dataset(self, *, name: str, source: str, digest: str, images: Mapping[str, int]) -> None:
        """Write the data set of the run; `images` are counts by split (`train`, `val`, `test`)."""
        journal.append(self._folder, "dataset", name=name, source=source, digest=digest, images=dict(images))

    def artifact(self, path: Path, folder: str | None = None) -> None:
        """Make the file at `path`, in the run's folder, an artifact in the subfolder `folder` of the artifacts."""
        inside = path.resolve().relative_to(self._folder.resolve())
        journal.append(self._folder, "artifact", path=str(inside), inside=folder)

    def tag(self, key: str, value: str) -> None:
        """Write one tag."""
        journal.append(self._folder, "tags", values={key: value})


@contextmanager
def recording(
    folder: Path, *, name: str, tags: Mapping[str, str], params: Mapping[str, Any], resume_run_id: str | None = None
) -> Iterator[Record]:
    """Yield the record of a run of the sweep, in `folder` below the sweep's; the run ends with the block.

    A `folder` with a record, or `resume_run_id`, resumes that run, without duplicate metrics. The run ends FINISHED,
    FAILED on an exception or SystemExit, KILLED on KeyboardInterrupt, or PAUSED on `Paused`; the reason of a failure is
    in the tag `frostline.reason`. Exceptions are raised again.
    """
    begin(folder, name, tags, run_id=resume_run_id)
    rated = isinstance(params.get("lr"), float)  # the metric that then follows syncs the params, too
    journal.append(folder, "params", sync=not rated, values={key: str(value) for key, value in params.items()})
    running = Record(folder)
    try:
        if rated:
            running.metrics({"lr": params["lr"]})  # params are text, by which MLflow cannot compare numbers
        yield running
    except Paused:
        end(folder, "PAUSED", None)
        raise
    except BaseException as error:
        end(folder, "KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED", reason_of(error))
        raise
    end(folder, "FINISHED", None)


def reason_of(error: BaseException) -> str:
    """Return the reason for an end as one line: the message of a UserError, else the type and message.

    An error of the system that caused it is added: `logging` names neither a full disk nor the file.
    """
    if isinstance(error, UserError):
        parts = [str(error)]
    else:
        parts = [type(error).__name__, str(error)]
        parts += [str(error.__cause__)] if isinstance(error.__cause__, OSError) else []
    return ": ".join(credentials.scrubbed(" ".join(part.split())) for part in parts if part)[:_LONGEST]


def begin(folder: Path, name: str, tags: Mapping[str, str], **facts: Any) -> None:
    """Write the first entry of a journal, or an entry that its run resumes.

    The uid finds the run in MLflow if the answer to its creation is lost.
    """
    if journal.uid(folder) is not None:
        journal.append(folder, "resume", time=now())
        journal.append(folder, "tags", sync=True, values=dict(tags))
    else:
        journal.forget_position(folder)  # a leftover of a deleted journal
        uid = uuid.uuid4().hex
        journal.append(folder, "run", sync=True, uid=uid, name=name, tags=dict(tags), time=now(), **facts)


def end(folder: Path, status: str, reason: str | None) -> None:
    """Write into the journal in `folder` that its run ended with `status`, and the `reason`.

    For a run that finished after an interruption, the reason of that interruption is cleared.
    """
    if reason:
        journal.append(folder, "tags", values=reason_tags(status, reason, folder))
    elif status == "FINISHED" and _was_interrupted(folder):
        journal.append(folder, "tags", values=dict.fromkeys((REASON_TAG, NOTE_TAG), ""))
    journal.append(folder, "end", sync=True, status=status, time=now())


def end_the_dead(folders: Iterable[Path]) -> None:
    """End as KILLED, in their journals, the open runs in `folders` without a living owner.

    Each run is judged by its own owner: cluster jobs outlive the sweep that submitted them.
    """
    for folder in folders:
        if not journal.ended(folder) and liveness.holder(folder) is None:
            end(folder, "KILLED", GONE)


def reason_tags(status: str, reason: str, folder: Path | str | None) -> dict[str, str]:
    """Return the tags of a run that ended with `status`: the `reason`, and a description that adds what to do."""
    where = f"Its traceback is in `train.log` of its folder, `{folder}`. Fix the cause, and type" if folder else "Type"
    goes_on = "the run resumes from its last checkpoint, or starts again if there is none"
    todo = (
        f"Type the sweep's command again: {goes_on}." if status == "KILLED" else f"{where} the sweep's command again."
    )
    return {REASON_TAG: reason, NOTE_TAG: f"{reason}\n\n{todo} What is finished is not run again."}


def _was_interrupted(folder: Path) -> bool:
    """Return whether the run in `folder` may have a reason already, its own or from the run that it resumes."""
    for entry, _ in journal.entries(folder):
        match entry:
            case {"op": "run", "run_id": str()} | {"op": "tags", "values": {layout.REASON_TAG: str()}}:
                return True
    return False


def now() -> int:
    """Return the time in milliseconds since 1970, as in MLflow; it never decreases, even if the clock is set back."""
    global _latest
    _latest = max(_latest, int(time.time() * 1000))
    return _latest
