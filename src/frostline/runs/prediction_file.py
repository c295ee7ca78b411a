"""Write predictions for many images into one file, resumably: finished parts are kept beside it until all are there.

Parts are written atomically, always from the same batches, and joined in order: however often the command was
interrupted, the file has the same bytes as without interruption.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
from filelock import Timeout
from pyarrow import compute

from frostline.core import files, locks, machine
from frostline.core.errors import user_error
from frostline.core.files import facts
from frostline.data.decode_all import ProgressBar
from frostline.data.image_list import ImageList
from frostline.models.mean_pooling import in_words
from frostline.runs import batch_predictions, predict, prediction_rows
from frostline.runs.predict import Layer, Predictor
from frostline.runs.prediction_rows import Columns

_TEXTS = {".csv": prediction_rows.as_csv, ".jsonl": prediction_rows.as_json_lines}
SUFFIXES = (".parquet", *_TEXTS)
_PART = 1024  # images per part at least: the work that a kill can cost
_JOB, _LIST, _LOCK, _WHOLE = "job.json", "images.arrow", "lock", "whole"
_SHOWN = 5  # unreadable images that are named


@dataclass(frozen=True)
class Written:
    """A finished file of predictions."""

    path: Path
    rows: int
    unread: int
    """Number of images that could not be read; the column `error` says why."""
    examples: tuple[str, ...] = ()
    """The first few of these, with the reason."""
    before: bool = False
    """Whether an earlier call had already written the file."""


def write(
    predictor: Predictor,
    output: Path,
    gather: Callable[[Path], ImageList],
    *,
    top: int,
    per_class: bool,
    features: str | None,
    batch: int,
    progress: ProgressBar,
) -> Written:
    """Write predictions to `output` for the images that `gather` lists; `gather` gets a file to store the list in.

    The suffix of `output` is one of `SUFFIXES`. `per_class` adds a column for the probability of each class, `features`
    the vectors of the layer of that name. Parts that an earlier, interrupted call for the same job left are reused; if
    that call finished, nothing is done. UserError if they are of another job, or another process is writing the file.
    """
    check(output, features)
    layer = None if features is None else predict.layer(predictor, features)
    beside = _parts_of(output)
    with _owned(beside, output):
        images = gather(beside / _LIST)
        if not len(images):
            raise user_error("images", "-", "a list with images")
        columns = Columns.of(images, predictor, top, per_class=per_class, vectors=layer is not None)
        about = _about(predictor, layer)
        asked = {"top": len(columns.best), "per_class": per_class, "batch": batch}
        job = {"images": images.identity, **asked, **about}
        if (before := _finished(output, job)) is not None:
            return before
        _claim(beside, output, job)
        parts = _parts(beside, len(images), batch)
        _compute(predictor, images, columns, parts, batch, layer, progress)
        written = _join(output, beside / _WHOLE, columns, list(parts), about)
        said = {"rows": written.rows, "unread": written.unread, "examples": written.examples}
        files.write_json(_note_file(output), {"job": job, "output": facts(str(output)), **said})
    shutil.rmtree(beside)
    return written


def _parts_of(output: Path) -> Path:
    return output.with_name(f"{output.name}.parts")


def _note_file(output: Path) -> Path:
    """Return the path of the note that describes a finished file's job."""
    return output.with_name(f".{output.name}.json")


def _note(output: Path) -> dict[str, Any]:
    """Return the note of a finished file; empty if there is none."""
    return files.json_or_none(_note_file(output)) or {}


def _finished(output: Path, job: Mapping[str, Any]) -> Written | None:
    """Return the result of an earlier call that finished the same job; None if there was none."""
    note = _note(output)
    if note.get("job") != job or not output.exists():
        return None
    return Written(output, note["rows"], note["unread"], tuple(note["examples"]), before=True)


def check(output: Path, features: str | None) -> None:
    """Raise `UserError` for an output that cannot be written, is not ours to overwrite, or cannot hold features."""
    if output.suffix.lower() not in SUFFIXES:
        raise user_error("output", output, f"a file whose name ends in {', '.join(SUFFIXES)}", SUFFIXES)
    files.require_place("output", output)
    ours = os.path.exists(_parts_of(output) / _JOB) or _note(output).get("output") == [*facts(str(output))]
    if os.path.exists(output) and not ours:
        whose = "this one was written or changed by another program: remove it to write it anew"
        raise user_error("output", output, f"a new file; {whose}")
    if features is not None and output.suffix.lower() == ".csv":
        raise user_error("features", features, "an output of .parquet or .jsonl, which can hold vectors")


@contextmanager
def _owned(beside: Path, output: Path) -> Iterator[None]:
    try:
        beside.mkdir(exist_ok=True)
        lock = locks.acquire(beside / _LOCK, timeout=0)
    except Timeout:
        raise user_error("output", output, "a file that no other process is writing") from None
    except OSError as error:
        raise user_error("output", output, f"a file that can be written ({error.strerror})") from None
    try:
        yield
    finally:
        lock.release()
        if not (beside / _JOB).exists():  # nothing was begun
            shutil.rmtree(beside, ignore_errors=True)


def _about(predictor: Predictor, layer: Layer | None) -> dict[str, str]:
    """Return what predictions depend on besides the images, as metadata of the file."""
    precision = machine.autocast_dtype(predictor.config.precision, predictor.device)
    about = {
        "model": predictor.model.name,
        "weights": predictor.digest,
        "precision": str(precision or "torch.float32").removeprefix("torch."),
        "device": predictor.device.type,
    }
    return about | ({} if layer is None else {"features": layer.name, "pooling": in_words(layer.axes)})


def _claim(beside: Path, output: Path, job: Mapping[str, Any]) -> None:
    """Write the job of the parts into their folder; UserError if existing parts are of another job."""
    before = files.json_or_none(beside / _JOB)
    if before is None or before == _note(output).get("job") != job:  # a finished file left it
        for part in beside.glob("*.part"):
            part.unlink()
        files.write_json(beside / _JOB, dict(job))
        return
    if odd := [key for key in {**before, **job} if before.get(key) != job.get(key)]:
        expected = f"the {', '.join(odd)} with which {beside} was begun; remove it to begin anew"
        raise user_error("output", output, expected)


def _parts(beside: Path, count: int, batch: int) -> dict[Path, range]:
    """Return the rows of each part: whole batches, so that bits do not depend on interruptions."""
    size = batch * -(-_PART // batch)
    starts = range(0, count, size)
    return {beside / f"{start:012}.part": range(start, min(start + size, count)) for start in starts}


def _compute(
    predictor: Predictor,
    images: ImageList,
    columns: Columns,
    parts: Mapping[Path, range],
    batch: int,
    layer: Layer | None,
    progress: ProgressBar,
) -> None:
    missing = {part: rows for part, rows in parts.items() if not _is_whole(part, len(rows))}
    batches = (rows[at : at + batch] for rows in missing.values() for at in range(0, len(rows), batch))
    said = batch_predictions.answers(predictor, batches, images.open, features=layer)
    with progress("images", len(images)) as advance:
        advance(len(images) - sum(map(len, missing.values())))
        for part, rows in missing.items():
            found: list[pa.Table] = []
            for answers in islice(said, -(-len(rows) // batch)):
                found.append(columns.table(images.carried(answers.rows), answers))
                advance(len(answers.rows))
            _put(part, pa.concat_tables(found))


def _is_whole(part: Path, rows: int) -> bool:
    """Return whether a part has all of its rows: a loss of power may have left fewer."""
    try:
        return bool(_read(part).num_rows == rows)
    except (OSError, pa.ArrowInvalid):
        return False


def _read(part: Path) -> pa.Table:
    return pa.ipc.open_file(pa.memory_map(str(part))).read_all()


def _put(part: Path, rows: pa.Table) -> None:
    partial = part.with_suffix(".partial")
    with (
        files.naming(part, partial),
        pa.OSFile(str(partial), "wb") as sink,
        pa.ipc.new_file(sink, rows.schema) as writer,
    ):
        writer.write_table(rows)
    partial.replace(part)


def _join(output: Path, partial: Path, columns: Columns, parts: Sequence[Path], about: Mapping[str, str]) -> Written:
    """Join the parts into the file, by way of `partial`, and return the result."""
    try:
        with files.naming(output, partial):
            if output.suffix.lower() == ".parquet":
                prediction_rows.write_parquet(partial, columns, map(_read, parts), about)
            else:
                with partial.open("w", encoding="utf-8", errors="surrogateescape", newline="") as out:
                    out.writelines(_TEXTS[output.suffix.lower()](columns, map(_read, parts)))
            partial.replace(output)
    finally:
        partial.unlink(missing_ok=True)
    rows, unread, examples = 0, 0, list[str]()
    for table in map(_read, parts):
        bad = table.filter(compute.is_valid(table.column(columns.error)))
        rows, unread = rows + table.num_rows, unread + bad.num_rows
        examples += map(columns.told, bad.slice(0, _SHOWN - len(examples)).to_pylist())
    return Written(output, rows, unread, tuple(examples))
