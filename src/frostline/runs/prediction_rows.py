"""Predictions as table rows: their columns, and how they are written as Parquet, CSV and JSON."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import parquet
from torch import Tensor

from frostline.core.errors import user_error
from frostline.data.image_list import FILE, ImageList
from frostline.data.names import printable
from frostline.data.table_files import AS_JSON
from frostline.runs.batch_predictions import Answers
from frostline.runs.predict import Predictor

_ROW_GROUP = 16  # tables per row group, which Parquet readers load at once: 128 MiB for 2,048 features of 1,024 rows


@dataclass(frozen=True)
class Columns:
    """The columns of predictions, which follow the columns carried over from the list of images."""

    carried: tuple[str, ...]
    named: str
    """The carried column that identifies the image."""
    classes: tuple[str, ...]
    every: list[str]
    """The column of all classes with a probability above 0.5, in a list; empty unless multi-label."""
    best: list[tuple[str, str]]
    """The columns of class and probability by rank: `class`, `probability`, `class_2`, ..."""
    per_class: list[str]
    """The column of the probability of each class, in the order of `classes`; empty unless asked for."""
    probabilities: str
    """The key of the probabilities by class in JSON."""
    features: str
    """The column of the feature vectors."""
    error: str
    """The column that says why an image could not be read."""
    vectors: bool
    """Whether there is a column of features."""
    unread: bool
    """Whether unreadable images have rows."""

    @classmethod
    def of(
        cls,
        images: ImageList,
        predictor: Predictor,
        top: int,
        *,
        per_class: bool,
        vectors: bool = False,
        unread: bool = True,
    ) -> Columns:
        """Return the columns for a list of images, with the `top` classes, the most probable first.

        `per_class` adds a column for the probability of each class. If a table already has a column of a name, it is
        `predicted_<name>` here; UserError if the table has both.
        """
        carried, classes = tuple(images.columns), predictor.classes

        def free(name: str) -> str:
            found = next((each for each in (name, f"predicted_{name}") if each not in carried), None)
            if found is None:
                raise user_error("images", name, f"a table without a column {name} or predicted_{name}")
            return found

        every = [free("classes")] if predictor.multi_label else []
        marks = ["" if place == 1 else f"_{place}" for place in range(1, min(top, len(classes)) + 1)]
        best = [(free(f"class{mark}"), free(f"probability{mark}")) for mark in marks]
        each = [free(f"probability of {name}") for name in classes] if per_class else []
        keys = free("probabilities"), free("features"), free("error")
        return cls(carried, images.named, classes, every, best, each, *keys, vectors, unread)

    def told(self, row: Mapping[str, Any]) -> str:
        """Return in words which image could not be read, and why."""
        return f"{printable(str(_text(row[self.named])))}: {row[self.error]}"

    def table(self, carried: pa.Table, answers: Answers) -> pa.Table:
        """Return a row per image: carried columns, then predictions; for unreadable images nulls and the reason."""
        values, places = answers.probabilities.topk(len(self.best))
        read = np.array([row not in answers.errors for row in answers.rows], dtype=bool)
        names, found = pa.array(self.classes, pa.string()), carried
        for every in self.every:
            found = found.append_column(every, _named(answers.probabilities > 0.5, names, read))
        for place, (label, probability) in enumerate(self.best):
            found = found.append_column(label, names.take(_spread(places[:, place], read)))
            found = found.append_column(probability, _spread(values[:, place], read))
        for place, probability in enumerate(self.per_class):
            found = found.append_column(probability, _spread(answers.probabilities[:, place], read))
        if answers.features is not None:
            vectors = answers.features.numpy()
            found = found.append_column(self.features, _lists(pa.array(vectors.ravel()), vectors.shape[1], read))
        reasons = pa.array([answers.errors.get(row) for row in answers.rows], pa.string())
        found = found.append_column(self.error, reasons)
        return found if self.unread else found.filter(pa.array(read))


def _spread(values: Tensor, read: NDArray[np.bool_]) -> pa.Array:
    """Return an array with the values `(M,)` in the M rows that were read, and null in the others."""
    every = np.zeros(len(read), values.numpy().dtype)
    every[read] = values.numpy()
    return pa.array(every, mask=~read)


def _named(said: Tensor, names: pa.Array, read: NDArray[np.bool_]) -> pa.Array:
    """Return lists of class names; `said` `(M, classes)` bool has the classes of the M rows that were read."""
    return _lists(names.take(pa.array(said.nonzero()[:, 1].numpy())), said.sum(1).numpy(), read)


def _lists(values: pa.Array, lengths: NDArray[np.int64] | int, read: NDArray[np.bool_]) -> pa.Array:
    """Return `values` as lists of `lengths`, `(M,)` or one for all, in the M rows that were read, else null."""
    every = np.zeros(len(read), np.int32)
    every[read] = lengths
    starts = pa.array(np.concatenate([[0], every.cumsum()]).astype(np.int32), mask=np.append(~read, False))
    return pa.ListArray.from_arrays(starts, values)


def write_parquet(file: Path, columns: Columns, tables: Iterator[pa.Table], about: Mapping[str, str]) -> None:
    """Write tables as Parquet, with the facts `about` them and the class names as metadata."""
    first = _with_names(next(tables))
    facts = {**about, "classes": json.dumps(columns.classes, ensure_ascii=False)}
    schema = first.schema.with_metadata({f"frostline.{key}": value for key, value in facts.items()})
    every = chain([first], map(_with_names, tables))
    with parquet.ParquetWriter(file, schema) as writer:
        while group := list(islice(every, _ROW_GROUP)):
            whole = pa.concat_tables(group).replace_schema_metadata(schema.metadata)
            writer.write_table(whole, row_group_size=whole.num_rows)


def _with_names(rows: pa.Table) -> pa.Table:
    """Return rows with file names as text; bytes that are not UTF-8 are escaped."""
    if rows.schema.field(0) != FILE:
        return rows
    names = [printable(os.fsdecode(name)) for name in rows.column(0).to_pylist()]
    return rows.set_column(0, FILE.name, pa.array(names, pa.string()))


def as_csv(columns: Columns, tables: Iterable[pa.Table]) -> Iterator[str]:
    """Yield a CSV: its header, then a text per table; probabilities have six decimals, labels are separated by `|`."""
    best = [name for pair in columns.best for name in pair]
    error = [columns.error] if columns.unread else []
    names = [*columns.carried, *columns.every, *best, *columns.per_class, *error]
    decimals = [*(name for _, name in columns.best), *columns.per_class]
    written = dict.fromkeys(decimals, _decimals) | dict.fromkeys(columns.every, _joined)
    yield _csv_text([names])
    for rows in tables:
        yield _csv_text([written.get(name, _cell)(row[name]) for name in names] for row in _plain(rows))


def _csv_text(rows: Iterable[Sequence[Any]]) -> str:
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def _decimals(value: float | None) -> str | None:
    return None if value is None else f"{value:.6f}"


def _joined(names: Sequence[str] | None) -> str | None:
    """Return several labels in the form in which tables are read, see `data.options.separator`."""
    return None if names is None else "|".join(names)


def _cell(value: Any) -> Any:
    return json.dumps(value, ensure_ascii=False, default=str) if isinstance(value, list | dict) else value


def as_json(columns: Columns, tables: Iterable[pa.Table]) -> Iterator[str]:
    """Yield a JSON list of objects, one per line; a text per table."""
    separator = "[\n"
    for rows in filter(len, tables):
        yield separator + ",\n".join(_objects(columns, rows))
        separator = ",\n"
    yield "[]\n" if separator == "[\n" else "\n]\n"


def as_json_lines(columns: Columns, tables: Iterable[pa.Table]) -> Iterator[str]:
    """Yield JSON lines, an object each; a text per table."""
    for rows in tables:
        yield "".join(f"{line}\n" for line in _objects(columns, rows))


def _objects(columns: Columns, rows: pa.Table) -> Iterator[str]:
    """Yield each row as a JSON object: carried columns, `class`, and `probabilities` by class; or `error`."""
    (label, _), *_ = columns.best
    for row in _plain(rows):
        said = {name: row[name] for name in columns.carried}
        if row[columns.error] is None:
            said |= {every: row[every] for every in columns.every}
            said[label] = row[label]
            said[columns.probabilities] = {row[name]: row[probability] for name, probability in columns.best}
            if columns.per_class:
                said[columns.probabilities] = dict(zip(columns.classes, map(row.get, columns.per_class), strict=True))
            if columns.vectors:
                said[columns.features] = row[columns.features]
        else:
            said[columns.error] = row[columns.error]
        text = json.dumps(said, ensure_ascii=False, default=str)
        yield text if _is_unicode(text) else json.dumps(said, default=str)


def _plain(rows: pa.Table) -> Iterator[Mapping[str, Any]]:
    """Yield rows as Python values: file names as text, whatever bytes they hold, JSON columns parsed, nan as None."""
    parsed = [field.name for field in rows.schema if AS_JSON in (field.metadata or {})]
    for row in rows.to_pylist():
        row |= {name: json.loads(row[name]) for name in parsed if row[name] is not None}
        yield {name: _text(value) for name, value in row.items()}


def _text(value: Any) -> Any:
    if isinstance(value, bytes):
        return os.fsdecode(value)
    return None if isinstance(value, float) and value != value else value


def _is_unicode(text: str) -> bool:
    """Return whether `text` is valid Unicode; file names can hold bytes that are not."""
    return not any("\ud800" <= character <= "\udfff" for character in text)
