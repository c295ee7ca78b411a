"""Labels that stand in a table, a row per picture: CSV, TSV, Parquet or JSON lines, read by pandas.

Everything is text as it stands there: `007`, `NA` and `1e3` are labels like any other. A picture is of several classes
where a cell holds a list, or text that is parted by `separator`, or where each class is a column of its own.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from frostline.core.errors import user_error
from frostline.core.files import expanded
from frostline.data import label_columns, table_columns, table_files, times
from frostline.data.findings import Finding, first_few
from frostline.data.label_columns import LABELS, Cell, Labels
from frostline.data.layouts import SPLITS, roles_of
from frostline.data.listing import LeftOut, walk
from frostline.data.names import counted, printable
from frostline.data.table_rows import Row, rows_of
from frostline.data.times import Times

if TYPE_CHECKING:
    import pandas as pd

_PATHS = ("path", "file", "filename", "file_name", "filepath", "file_path", "image", "image_path", "img", "picture")
_SPLITS = ("split",)
_HINTS = {
    "group": (
        ("group", "patient", "patient_id", "subject", "subject_id", "camera", "camera_id", "site", "location"),
        "keeps its pictures on one side of every split",
    ),
    "time": (
        ("time", "date", "datetime", "timestamp", "taken_at", "captured_at", "date_captured", "date_taken"),
        "tests on the latest pictures",
    ),
}
"""By which names a column is taken for one of groups or times, and what that would do."""
_LOOKED_AT = 100_000  # files that are looked at for one without a row, a second's work: `root` may be a whole disk
_OURS = ("mlruns/", "multirun/")  # folders of what runs leave, where commands are typed beside the table
_COLUMN = "the name of a column, or null"
_OPTIONS = {
    "path": _COLUMN,
    "label": "the name of a column, two or more of them, or null",
    "split": _COLUMN,
    "group": _COLUMN,
    "time": _COLUMN,
    "weight": _COLUMN,
    "root": "a folder, or null",
    "separator": "what stands between the labels of a cell, or null",
    "rows": "labels, where each row is one label of a picture, or null",
}
"""What may stand in `data.options`, and as what."""


@dataclass(frozen=True)
class Labelled:
    """The pictures of one split."""

    files: tuple[Path, ...]
    labels: tuple[Labels, ...]
    """Of each file."""
    groups: tuple[str, ...] | None
    """Of each file, empty where it belongs to nobody; None where the table has no groups."""
    weights: tuple[float, ...] | None
    """What each file counts in the loss, above 0; None where the table has no weights."""
    rows: tuple[int, ...]
    """Where each file is among all that the table names."""


@dataclass(frozen=True)
class Table:
    """What a table says."""

    root: Path
    """Below which all pictures lie."""
    splits: Mapping[str, Labelled]
    """`train` at least."""
    times: Times | None
    """Of all files that the table names; None where it has no times."""
    findings: tuple[Finding, ...]
    multi_label: bool
    """Whether pictures may be of several classes, or of none."""
    classes: tuple[str, ...]
    """Those that have columns of their own, in their order; empty where they are what cells say."""


def read(file: Path, options: Mapping[str, Any]) -> Table:
    """Return what the table in `file` says of which pictures.

    `options` name its columns: `path`, `label` and `split`, null for those that are called as is common, `group`,
    `time` and `weight`, null for none; several columns for `label` are a class each. `root` is the folder that paths
    are relative to, null for that of the table, `separator` what stands between the labels of a cell, and `rows` is
    `labels` where those of a picture stand in several rows. Raises `UserError` for a table that cannot be read so, a
    path that leads out of `root`, and a picture with two labels, groups, times or weights.
    """
    _check_options(options)
    if not os.path.isfile(file):
        raise user_error("data.root", file, "a table that exists: .csv, .tsv, .parquet or .jsonl")
    frame = table_files.whole(file, "data.root")
    root = root_of(file, "data.options.root", options.get("root"))

    def column(what: str, common: Sequence[str], *, optional: bool = True) -> str | None:
        return table_columns.find(
            list(frame.columns), f"data.options.{what}", options.get(what), common, optional=optional
        )

    columns = {
        "path": column("path", _PATHS, optional=False),
        "split": column("split", _SPLITS),
        "group": column("group", ()),
        "time": column("time", ()),
        "weight": column("weight", ()),
    }
    labels, multi_label = _labels(file, frame, options)
    texts = {key: table_columns.texts(frame[name], name, file) if name else None for key, name in columns.items()}
    if long := options.get("rows") == "labels":
        labels, multi_label = [own or () for own in labels], True
    rows, findings = rows_of(file, root, texts, labels, str(columns["split"]), long=long)
    findings += [*_unused(frame, columns, "group"), *_unused(frame, columns, "time")]
    if columns["split"] is None:
        findings += _unused_splits(frame)
    splits = {split: [row for row in rows if row.split == split] for split in SPLITS}
    if not splits["train"]:
        raise user_error("data.root", file, "rows of train, with a path and a label each")
    if columns["time"] is not None and splits["val"] and splits["test"]:
        expected = f"null, since the table says in column {columns['split']} what is val and test"
        raise user_error("data.options.time", columns["time"], expected)
    findings += _without_row(root, {row.file for row in rows})
    moments = times.read(columns["time"], [row.time or "" for row in rows]) if columns["time"] is not None else None
    labelled = {split: _labelled(rows, split) for split in SPLITS if splits[split]}
    classes = tuple(options["label"]) if isinstance(options.get("label"), list) else ()
    return Table(root, labelled, moments, tuple(findings), multi_label, classes)


def _labels(file: Path, frame: pd.DataFrame, options: Mapping[str, Any]) -> tuple[list[Labels | None], bool]:
    """Return the labels of each row, None where none is told, and whether there may be several."""
    columns, key = list(frame.columns), "data.options.label"
    if isinstance(options.get("label"), list):
        names = [str(table_columns.find(columns, key, name, ())) for name in options["label"]]
        return label_columns.of_classes({name: table_columns.texts(frame[name], name, file) for name in names}), True
    name = str(table_columns.find(columns, key, options.get("label"), LABELS))
    lists, separator = table_columns.holds_lists(frame[name]), options.get("separator")
    cells: list[Cell] = [
        *(table_columns.cells(frame[name], name, file) if lists else table_columns.texts(frame[name], name, file))
    ]
    several = label_columns.holds_several(cells, separator)
    return label_columns.of_cells(cells, name, separator=separator, several=several), several


def _labelled(rows: Sequence[Row], split: str) -> Labelled:
    own = {place: row for place, row in enumerate(rows) if row.split == split}
    groups = tuple(row.group or "" for row in own.values()) if rows[0].group is not None else None
    files, labels = tuple(Path(row.file) for row in own.values()), tuple(row.labels or () for row in own.values())
    weights = tuple(row.weight or 0.0 for row in own.values()) if rows[0].weight is not None else None
    return Labelled(files, labels, groups, weights, tuple(own))


def _check_options(options: Mapping[str, Any]) -> None:
    label_columns.check_options(options, _OPTIONS)
    for key, value in options.items():
        several = key == "label" and isinstance(value, list)
        if value == "" or not (value is None or isinstance(value, str) or several):
            raise user_error(f"data.options.{key}", value, _OPTIONS[key])
    if options.get("rows") not in (None, "labels"):
        raise user_error("data.options.rows", options["rows"], _OPTIONS["rows"], ["labels"])


def root_of(file: Path, key: str, given: str | None) -> Path:
    """Return the folder that the paths in a table are relative to; UserError, which says it of `key`, if none is."""
    root = Path(os.path.normpath(file.parent / expanded(given or "")))
    if not os.path.isdir(root):
        raise user_error(key, given, f"a folder that exists; {root} does not")
    return root


def path_column(columns: Sequence[str], given: str | None) -> str:
    """Return which of the `columns` holds the paths of pictures, perhaps the `given` one; UserError for none."""
    return str(table_columns.find(columns, "path", given, _PATHS))


def _unused(frame: pd.DataFrame, columns: Mapping[str, str | None], what: str) -> list[Finding]:
    """Return the hint that a column looks like one of `what`, groups or times, by which splits can be made."""
    if columns[what] is not None or columns["split"] is not None:
        return []
    names, does = _HINTS[what]
    return [
        Finding(f"column {name} is not used: data.options.{what}={name} {does}")
        for name in frame.columns
        if name.casefold() in names
    ][:1]


def _unused_splits(frame: pd.DataFrame) -> list[Finding]:
    """Return the hint that a column has splits in it, of which train, val and test are made anew without it."""

    def says(cells: pd.Series[Any]) -> list[str]:
        found = [*dict.fromkeys(cells)] if cells.map(lambda cell: isinstance(cell, str)).all() else []
        return found if {*roles_of(found)} <= {*SPLITS} else []

    for name in frame.columns:
        if says(frame[name].head(2)) and len(says(frame[name])) > 1:
            told = f"column {printable(name)} is not used: data.options.split={name} takes its splits"
            return [Finding(told, True)]
    return []


def _without_row(root: Path, named: set[str]) -> list[Finding]:
    """Return what is told of pictures below `root` that the table does not name, as far as it is soon found out."""
    left = LeftOut(most=_LOOKED_AT + 2 * len(named))
    real = functools.cache(os.path.realpath)  # of folders, which others may have linked to
    rows = {(real(os.path.dirname(file)), os.path.basename(file)) for file in named}  # noqa: PTH119, PTH120
    found = (path for path in walk(root, left) if (real(path.parent), path.name) not in rows)
    listed = [printable(os.path.relpath(path, root)) for path in found]
    listed = [path for path in listed if not path.startswith(_OURS)]
    if not listed:
        return []
    more = f" (of the first {left.seen:,} files and folders there)" if left.cut else ""
    told = counted(len(listed), f"picture below {root} is", f"pictures below {root} are")
    told = f"{told} in no row of the table: {first_few(listed)}{more}"
    return [Finding(told, pictures=tuple(listed))]
