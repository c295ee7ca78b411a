"""Label tables, a row per image: CSV, TSV, Parquet or JSON lines, read by pandas.

All values are plain text: `007`, `NA` and `1e3` are labels like any other. An image has several classes if a cell holds
a list, or text with `separator`, or if each class has its own column.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from frostline.core.errors import first_few, user_error
from frostline.core.files import expanded
from frostline.data import label_columns, table_columns, table_files, times
from frostline.data.findings import Finding
from frostline.data.label_columns import LABELS, Cell, Labels
from frostline.data.layouts import SPLITS, roles_of
from frostline.data.listing import LeftOut, walk
from frostline.data.names import counted, printable
from frostline.data.roots import require_table
from frostline.data.table_rows import Row, rows_of
from frostline.data.times import Times

if TYPE_CHECKING:
    import pandas as pd

_PATHS = ("path", "file", "filename", "file_name", "filepath", "file_path", "image", "image_path", "img", "picture")
_HINTS = {
    "group": (
        ("group", "patient", "patient_id", "subject", "subject_id", "camera", "camera_id", "site", "location"),
        "keeps its images in the same split",
    ),
    "time": (
        ("time", "date", "datetime", "timestamp", "taken_at", "captured_at", "date_captured", "date_taken"),
        "tests on the latest images",
    ),
}
"""Names by which a column is recognised as groups or times, and the effect of using it."""
_LOOKED_AT = 100_000  # files searched for images without a row, in a second: `root` may be a whole disk
_OURS = ("mlruns/", "multirun/")  # output folders of runs, if commands are typed beside the table
_COLUMN = "the name of a column, or null"
_OPTIONS = {
    "path": _COLUMN,
    "label": "the name of a column, two or more of them, or null",
    "split": _COLUMN,
    "group": _COLUMN,
    "time": _COLUMN,
    "weight": _COLUMN,
    "root": "a folder, or null",
    "separator": "the text between the labels of a cell, or null",
    "rows": "labels, if each row is one label of an image, or null",
}
"""Keys of `data.options`, and their expected values."""


@dataclass(frozen=True)
class Labelled:
    """The images of a split."""

    files: tuple[Path, ...]
    labels: tuple[Labels, ...]
    """Labels of each file."""
    groups: tuple[str, ...] | None
    """Group of each file, empty for none; None if the table has no groups."""
    weights: tuple[float, ...] | None
    """Weight of each file in the loss, above 0; None if the table has no weights."""
    rows: tuple[int, ...]
    """Index of each file among all files of the table."""


@dataclass(frozen=True)
class Table:
    """The content of a label table."""

    root: Path
    """Folder that contains all images."""
    splits: Mapping[str, Labelled]
    """At least `train`."""
    times: Times | None
    """Times of all files of the table; None if it has no times."""
    findings: tuple[Finding, ...]
    multi_label: bool
    """Whether images may have several classes, or none."""
    classes: tuple[str, ...]
    """Classes with their own columns, in column order; empty if cells hold class names."""


def read(file: Path, options: Mapping[str, Any]) -> Table:
    """Return the images, labels and splits of the table in `file`.

    `options` name its columns: `path`, `label` and `split`, null for columns with common names; `group`, `time` and
    `weight`, null for none. Several columns for `label` are a class each. `root` is the folder to which paths are
    relative, null for that of the table; `separator` is the text between the labels of a cell; `rows` is `labels` if
    each row has one label of an image. Raises `UserError` for a table that cannot be read this way, a path that leads
    out of `root`, and an image with two labels, groups, times or weights.
    """
    _check_options(options)
    require_table(file)
    frame = table_files.whole(file, "data.root")
    root = root_of(file, "data.options.root", options.get("root"))
    columns = _columns(list(frame.columns), options)
    labels, multi_label = _labels(file, frame, options)
    texts = {key: table_columns.texts(frame[name], name, file) if name else None for key, name in columns.items()}
    if long := options.get("rows") == "labels":
        labels, multi_label = [own or () for own in labels], True
    rows, named, findings = rows_of(file, root, texts, labels, str(columns["split"]), long=long)
    findings += [*_unused(frame, columns, "group"), *_unused(frame, columns, "time")]
    if columns["split"] is None:
        findings += _unused_splits(frame)
    if not isinstance(options.get("label"), list):
        findings += label_columns.joint({label for own in labels for label in own or ()})
    splits = {split: [row for row in rows if row.split == split] for split in SPLITS}
    if not splits["train"]:
        raise user_error("data.root", file, "rows of train, with a path and a label each")
    if columns["time"] is not None and splits["val"] and splits["test"]:
        expected = f"null, since the table defines val and test in column {columns['split']}"
        raise user_error("data.options.time", columns["time"], expected)
    findings += _without_row(root, named)
    moments = times.read(columns["time"], [row.time or "" for row in rows]) if columns["time"] is not None else None
    labelled = {split: _labelled(rows, split) for split in SPLITS if splits[split]}
    classes = tuple(options["label"]) if isinstance(options.get("label"), list) else ()
    return Table(root, labelled, moments, tuple(findings), multi_label, classes)


def _columns(names: Sequence[str], options: Mapping[str, Any]) -> dict[str, str | None]:
    """Return the column of a table for each thing besides labels, None for none; `names` are all columns."""
    common = {"path": _PATHS, "split": ("split",), "group": (), "time": (), "weight": ()}
    return {
        what: table_columns.find(names, f"data.options.{what}", options.get(what), own, optional=what != "path")
        for what, own in common.items()
    }


def _labels(file: Path, frame: pd.DataFrame, options: Mapping[str, Any]) -> tuple[list[Labels | None], bool]:
    """Return the labels of each row, None for a row without any, and whether there may be several."""
    columns, key = list(frame.columns), "data.options.label"
    if isinstance(options.get("label"), list):
        names = [str(table_columns.find(columns, key, name, ())) for name in options["label"]]
        return label_columns.of_classes({name: table_columns.texts(frame[name], name, file) for name in names}), True
    name = str(table_columns.find(columns, key, options.get("label"), LABELS))
    lists, separator = table_columns.holds_lists(frame[name]), options.get("separator")
    cells: list[Cell] = [
        *(table_columns.cells(frame[name], name, file) if lists else table_columns.texts(frame[name], name, file))
    ]
    return label_columns.of_cells(cells, name, separator), label_columns.holds_several(cells, separator)


def _labelled(rows: Sequence[Row], split: str) -> Labelled:
    own = {place: row for place, row in enumerate(rows) if row.split == split}
    groups = tuple(row.group or "" for row in own.values()) if rows[0].group is not None else None
    files, labels = tuple(Path(row.file) for row in own.values()), tuple(row.labels or () for row in own.values())
    weights = tuple(row.weight or 0.0 for row in own.values()) if rows[0].weight is not None else None
    return Labelled(files, labels, groups, weights, tuple(own))


def _check_options(options: Mapping[str, Any]) -> None:
    label_columns.check_options(options, _OPTIONS)
    for key in (key for key, value in options.items() if value == ""):
        raise user_error(f"data.options.{key}", "", _OPTIONS[key])
    if options.get("rows") not in (None, "labels"):
        raise user_error("data.options.rows", options["rows"], _OPTIONS["rows"], ["labels"])


def root_of(file: Path, key: str, given: str | None) -> Path:
    """Return the folder to which the paths in a table are relative; UserError for `key` if it does not exist."""
    root = Path(os.path.normpath(file.parent / expanded(given or "")))
    if not os.path.isdir(root):
        raise user_error(key, given, f"a folder that exists; {root} does not")
    return root


def path_column(columns: Sequence[str], given: str | None) -> str:
    """Return the column of image paths: the `given` one, or the one with a common name; UserError if there is none."""
    return str(table_columns.find(columns, "path", given, _PATHS))


def _unused(frame: pd.DataFrame, columns: Mapping[str, str | None], what: str) -> list[Finding]:
    """Return a hint if an unused column looks like `what`, groups or times, by which splits can be made."""
    if columns[what] is not None or columns["split"] is not None:
        return []
    names, does = _HINTS[what]
    return [
        Finding(f"column {name} is not used: data.options.{what}={name} {does}")
        for name in frame.columns
        if name.casefold() in names
    ][:1]


def _unused_splits(frame: pd.DataFrame) -> list[Finding]:
    """Return a hint if an unused column has splits in it: without it, new splits are made."""

    def says(cells: pd.Series[Any]) -> list[str]:
        found = [*dict.fromkeys(cells)] if cells.map(lambda cell: isinstance(cell, str)).all() else []
        return found if {*roles_of(found)} <= {*SPLITS} else []

    for name in frame.columns:
        if says(frame[name].head(2)) and len(says(frame[name])) > 1:
            told = f"column {printable(name)} is not used: data.options.split={name} uses its splits"
            return [Finding(told, True)]
    return []


def _without_row(root: Path, named: set[str]) -> list[Finding]:
    """Return a finding about images below `root` that are not in the table, found in a limited search."""
    left = LeftOut(most=_LOOKED_AT + 2 * len(named))
    real = functools.cache(os.path.realpath)  # of folders, since there may be links to them
    rows = {(real(os.path.dirname(file)), os.path.basename(file)) for file in named}  # noqa: PTH119, PTH120
    found = (path for path in walk(root, left) if (real(path.parent), path.name) not in rows)
    listed = [printable(os.path.relpath(path, root)) for path in found]
    listed = [path for path in listed if not path.startswith(_OURS)]
    if not listed:
        return []
    more = f" (of the first {left.seen:,} files and folders there)" if left.cut else ""
    told = counted(len(listed), f"image below {root} is", f"images below {root} are")
    told = f"{told} in no row of the table: {first_few(listed)}{more}"
    return [Finding(told, images=tuple(listed))]
