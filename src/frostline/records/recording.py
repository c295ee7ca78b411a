"""The record of a sweep or run while it is written: into the journal of its folder, and nowhere else.

A run needs no MLflow: it writes, and the process that opened the sweep passes on. So a server that is slow or away
delays nothing, and a killed process loses nothing that it has written.
"""

from __future__ import annotations

import math
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from frostline.core import credentials
from frostline.core.errors import UserError
from frostline.records import journal, layout
from frostline.records.layout import NOTE_TAG, REASON_TAG

GONE = "the process of this run ended without a word"
"""Reason of an end that others wrote, since the process was gone."""

_LONGEST = 500  # characters of a failure's reason that are kept: enough for one line that a person reads
_latest = 0


class Paused(BaseException):
    """A run that ends for now, and goes on from its checkpoint if that is wanted later, which is no failure."""

    def __init__(self, epochs: int, seconds: float) -> None:
        """Say after how many epochs, and seconds of training."""
        super().__init__(f"waits after epoch {epochs}")
        self.epochs, self.seconds = epochs, seconds


class Record:
    """The record of one run while it is being written, in the journal of its folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def metrics(self, values: Mapping[str, float], step: int = 0) -> None:
        """Write `values` at `step` (an epoch, 1-based). Infinity is written as nan: SQL stores would clip it."""
        finite = {key: float(value) if math.isfinite(value) else math.nan for key, value in values.items()}
        journal.note(self._folder, "metrics", sync=True, step=step, time=now(), values=finite)

    def dataset(self, *, name: str, source: str, digest: str, images: Mapping[str, int]) -> None:
        """Write which data the run saw: one input per split of `images` (counts by `train`, `val`, `test`)."""
        journal.note(self._folder, "dataset", name=name, source=source, digest=digest, images=dict(images))

    def artifact(self, path: Path, folder: str | None = None) -> None:
        """Keep a copy of the file at `path`, in the run's folder, under its own name in `folder` of the artifacts."""
        inside = path.resolve().relative_to(self._folder.resolve())
        journal.note(self._folder, "artifact", path=str(inside), inside=folder)

    def tag(self, key: str, value: str) -> None:
        """Write one tag."""
        journal.note(self._folder, "tags", values={key: value})


@contextmanager
def recording(
    folder: Path, *, name: str, tags: Mapping[str, str], params: Mapping[str, Any], resume_run_id: str | None = None
) -> Iterator[Record]:
    """Yield the record of a run of the sweep, in `folder` below the sweep's; when the block ends, so does the run.

    A `folder` that has a record, and `resume_run_id`, go on with that run: metrics that it has are not doubled. It
    ends FINISHED, FAILED on an exception or SystemExit, or KILLED on KeyboardInterrupt, with the reason in the tag
    `frostline.reason`, or for now where it is `Paused`; whatever was raised is raised again.
    """
    begin(folder, name, tags, run_id=resume_run_id)
    rated = isinstance(params.get("lr"), float)  # what follows it at once takes it to the disk
    journal.note(folder, "params", sync=not rated, values={key: str(value) for key, value in params.items()})
    running = Record(folder)
    try:
        if rated:
            running.metrics({"lr": params["lr"]})  # params are text, which cannot be filtered by number
        yield running
    except Paused:
        end(folder, "PAUSED", None)
        raise
    except BaseException as error:
        end(folder, "KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED", reason_of(error))
        raise
    end(folder, "FINISHED", None)


def reason_of(error: BaseException) -> str:
    """Return why a run ended in one line: a person's mistake as it stands, anything else with its type in front."""
    kind = "" if isinstance(error, UserError) else type(error).__name__
    text = credentials.scrubbed(" ".join(str(error).split()))
    return ": ".join(part for part in (kind, text) if part)[:_LONGEST]


def begin(folder: Path, name: str, tags: Mapping[str, str], **facts: Any) -> None:
    """Write the first line of a journal, or that its run goes on.

    The uid finds the run in MLflow if the answer to its creation is lost.
    """
    if journal.uid(folder) is not None:
        journal.note(folder, "resume", time=now())
        journal.note(folder, "tags", sync=True, values=dict(tags))
    else:
        journal.forget_position(folder)  # of a journal that is gone: it says nothing of the new one
        uid = uuid.uuid4().hex
        journal.note(folder, "run", sync=True, uid=uid, name=name, tags=dict(tags), time=now(), **facts)


def end(folder: Path, status: str, reason: str | None) -> None:
    """Write into the journal in `folder` that its run ended as `status`, and why.

    One that finished after all has no longer the reason of an interruption, after which it went on.
    """
    if reason:
        journal.note(folder, "tags", values=reason_tags(status, reason, folder))
    elif status == "FINISHED" and _was_interrupted(folder):
        journal.note(folder, "tags", values=dict.fromkeys((REASON_TAG, NOTE_TAG), ""))
    journal.note(folder, "end", sync=True, status=status, time=now())


def reason_tags(status: str, reason: str, folder: Path | str | None) -> dict[str, str]:
    """Return the tags of a run that ended as `status`: its `reason`, and a description with that and what to do."""
    where = f"Its traceback is in `train.log` of its folder, `{folder}`. With that mended, type" if folder else "Type"
    goes_on = "it goes on from its last checkpoint, or from the start where there is none"
    todo = (
        f"Type the sweep's command again: {goes_on}." if status == "KILLED" else f"{where} the sweep's command again."
    )
    return {REASON_TAG: reason, NOTE_TAG: f"{reason}\n\n{todo} What is finished is not run again."}


def _was_interrupted(folder: Path) -> bool:
    """Return whether the run in `folder` has a reason already, of its own or of the run in MLflow that goes on."""
    for entry, _ in journal.notes(folder):
        match entry:
            case {"op": "run", "run_id": str()} | {"op": "tags", "values": {layout.REASON_TAG: str()}}:
                return True
    return False


def now() -> int:
    """Return the time in milliseconds, as MLflow counts it and orders by it; it stands still while a clock lags."""
    global _latest
    _latest = max(_latest, int(time.time() * 1000))
    return _latest
