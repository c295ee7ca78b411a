"""Journal of a run or sweep on disk: everything that is recorded is written here before it is sent to any server.

`metrics.jsonl` has a line per epoch, for people and for resuming; it contains results only, so that equal runs have
equal files. `record.jsonl` has a line per entry for MLflow, in order; `mirrored.json` states how far these were sent.
Both journals are append-only, with two exceptions: a torn last line, which a crash leaves, is removed by the next
write, and `metrics.jsonl` is cut back to the checkpoint from which a run resumes.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeGuard

from frostline.core import files
from frostline.records.layout import DIGEST_TAG, METRICS, MIRRORED, RECORD, RUN_ID

_LOCK = threading.Lock()  # training and sampling write to one journal


@dataclass(frozen=True)
class MirrorPosition:
    """How far a record was sent to MLflow."""

    run_id: str | None = None
    """MLflow's id of the run; None until it has been created there."""
    offset: int = 0
    """Bytes of `record.jsonl` that MLflow is known to have."""
    sure: bool = True
    """Whether the first attempt to create the run succeeded; otherwise MLflow may have created more than one."""


def append_epoch(folder: Path, values: Mapping[str, Any]) -> None:
    """Write the line of a finished epoch to `metrics.jsonl`; it is on disk when this returns."""
    append_lines(folder / METRICS, _line(values), sync=True)


def epochs(folder: Path) -> list[dict[str, Any]]:
    """Return the lines of `metrics.jsonl`, one dict per epoch (key `epoch`, 1-based); empty where there are none.

    Damaged lines, and values that are no numbers, are left out.
    """
    found = (entry for entry, _ in _lines(folder / METRICS, 0) if isinstance(entry.get("epoch"), int))
    return [{key: value for key, value in entry.items() if is_number(value)} for entry in found]


def is_number(value: object) -> TypeGuard[float]:
    """Return whether a value is a number that fits into a float; integers in JSON may be larger."""
    return isinstance(value, float) or (isinstance(value, int) and not isinstance(value, bool) and abs(value) < 10**300)


def is_count(value: object) -> bool:
    """Return whether a value is a whole number that a database can hold."""
    return type(value) is int and 0 <= value < 2**63


def rewrite_epochs(folder: Path, entries: Iterable[Mapping[str, Any]]) -> None:
    """Replace `metrics.jsonl` by `entries`, the epochs in the checkpoint from which a run resumes."""
    text = "".join(_line(entry) for entry in entries)
    if text or (folder / METRICS).exists():  # syncing an empty file takes as long as training a head
        files.write(folder / METRICS, text, sync=True)


def append_lines(path: Path, lines: str, *, sync: bool) -> None:
    """Append whole lines to the file at `path`, behind its last whole line; OSError names the file."""
    with _LOCK, files.naming(path), path.open("a+b") as file:
        _remove_torn_line(file.fileno())
        file.write(lines.encode())
        file.flush()
        if sync:
            os.fsync(file.fileno())


def append(folder: Path, op: str, *, sync: bool = False, **values: Any) -> None:
    """Append an entry for MLflow to `record.jsonl`; with `sync`, it and all before it are on disk on return."""
    append_lines(folder / RECORD, _line({"op": op, **values}), sync=sync)


def entries(folder: Path, offset: int = 0) -> Iterator[tuple[dict[str, Any], int]]:
    """Yield each entry of `record.jsonl` after byte `offset`, and the offset after it; skip a torn last line."""
    yield from ((entry, behind) for entry, behind in _lines(folder / RECORD, offset) if "op" in entry)


def beginning(folder: Path) -> dict[str, Any]:
    """Return the entry with which the record in `folder` begins; empty without a record."""
    return next((entry for entry, _ in entries(folder) if entry["op"] == "run"), {})


def uid(folder: Path) -> str | None:
    """Return our own id of the record in `folder`, which precedes MLflow's run id; None without a record."""
    first = beginning(folder)
    return str(first.get("uid")) if first else None


def digest(folder: Path) -> str | None:
    """Return the config digest of the run whose record is in `folder`; None where it is not recorded."""
    tags = beginning(folder).get("tags")
    return tags.get(DIGEST_TAG) if isinstance(tags, dict) else None


def ended(folder: Path) -> bool:
    """Return whether the run has ended, by its last status in `record.jsonl`."""
    return _end(folder) is not None


def finished(folder: Path) -> bool:
    """Return whether the run has finished, so that it will not be resumed."""
    return _end(folder) == "FINISHED"


def _end(folder: Path) -> str | None:
    """Return the status with which the run ended; None while it goes on."""
    words = [entry for entry, _ in entries(folder) if entry["op"] in ("run", "resume", "end")]
    return str(words[-1].get("status")) if words and words[-1]["op"] == "end" else None


def begun(folder: Path) -> bool:
    """Return whether any process has tried to send the record in `folder`."""
    return (folder / MIRRORED).exists()


def position(folder: Path) -> MirrorPosition:
    """Return how far the record in `folder` was sent; the beginning where the position cannot be read."""
    try:
        values = files.read_json(folder / MIRRORED)
        run_id, offset, sure = values["run_id"], int(values["offset"]), values["sure"] is True
    except (OSError, ValueError, KeyError, TypeError, OverflowError):
        return MirrorPosition()
    return MirrorPosition(run_id, offset, sure) if is_run_id(run_id) and offset >= 0 else MirrorPosition()


def set_position(folder: Path, value: MirrorPosition) -> None:
    """Save how far the record in `folder` was sent."""
    files.write(folder / MIRRORED, json.dumps(asdict(value)) + "\n", sync=True)


def forget_position(folder: Path) -> None:
    """Delete the position of the record in `folder`."""
    (folder / MIRRORED).unlink(missing_ok=True)


def run_id(folder: Path) -> str | None:
    """Return MLflow's id of the run whose record is in `folder`; None until it has one."""
    return position(folder).run_id


def is_run_id(value: object) -> bool:
    """Return whether a value is MLflow's id of a run, or says that there is none yet."""
    return value is None or (isinstance(value, str) and bool(RUN_ID.fullmatch(value)))


def _line(entry: Mapping[str, Any]) -> str:
    return json.dumps(entry, ensure_ascii=False) + "\n"


def _remove_torn_line(descriptor: int) -> None:
    """Remove an incomplete last line, left by a crash of the process or the machine."""
    size = os.fstat(descriptor).st_size
    if size == 0 or os.pread(descriptor, 1, size - 1) == b"\n":
        return
    whole = os.pread(descriptor, size, 0).rfind(b"\n") + 1
    os.ftruncate(descriptor, whole)


def _lines(path: Path, offset: int) -> Iterator[tuple[dict[str, Any], int]]:
    """Yield the complete lines after `offset` that are JSON objects, each with the offset after it."""
    if not path.exists():
        return
    with path.open("rb") as file:
        file.seek(offset)
        for line in file:
            offset += len(line)
            if not line.endswith(b"\n"):
                return
            try:
                entry = files.parsed(line)
            except ValueError:  # a damaged line; the others are still valid
                continue
            if isinstance(entry, dict):
                yield entry, offset
