"""Labels that stand in a table, a row per picture: CSV, TSV, Parquet or JSON lines, read by pandas.

Everything is text as it stands there: `007`, `NA` and `1e3` are labels like any other. A picture is of several classes
where a cell holds a list, or text that is parted by `separator`, or where each class is a column of its own.
"""

from __future__ import annotations

import os
import re
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from frostline.core.errors import UserError, user_error
from frostline.core.files import expanded
from frostline.core.labels import NONE
from frostline.data.findings import Finding, first_few
from frostline.data.layouts import SPLITS, roles_of
from frostline.data.listing import survey
from frostline.data.names import printable, some

if TYPE_CHECKING:
    import pandas as pd

_PATHS = ("path", "file", "filename", "file_name", "filepath", "file_path", "image", "image_path", "img", "picture")
_LABELS = ("label", "class", "category", "species", "target", "class_name", "classname")
_SPLITS = ("split",)
_GROUPS = ("group", "patient", "patient_id", "subject", "subject_id", "camera", "camera_id", "site", "location")
_SEPARATORS = {".tsv": "\t", ".tab": "\t"}
_QUOTED = re.compile('"[^"]*"')
_COLUMN = "the name of a column, or null"
_OPTIONS = {
    "path": _COLUMN,
    "label": "the name of a column, two or more of them, or null",
    "split": _COLUMN,
    "group": _COLUMN,
    "root": "a folder, or null",
    "separator": "what stands between the labels of a cell, or null",
}
"""What may stand in `data.options`, and as what."""
_SAID = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}

Labels = tuple[str, ...]
"""The classes of a picture: one, or any number where the table is multi-label."""


@dataclass(frozen=True)
class Labelled:
    """The pictures of one split."""

    files: tuple[Path, ...]
    labels: tuple[Labels, ...]
    """Of each file."""
    groups: tuple[str, ...] | None
    """Of each file, empty where it belongs to nobody; None where the table has no groups."""


@dataclass(frozen=True)
class Table:
    """What a table says."""

    root: Path
    """Below which all pictures lie."""
    splits: Mapping[str, Labelled]
    """`train` at least."""
    findings: tuple[Finding, ...]
    multi_label: bool
    """Whether pictures may be of several classes, or of none."""
    classes: tuple[str, ...] | None
    """Those that have columns of their own, in their order; None where they are what cells say."""


@dataclass(frozen=True)
class _Row:
    file: str
    """Its path, absolute and normal."""
    labels: Labels | None
    """None where none is told."""
    split: str
    group: str | None


def read(file: Path, options: Mapping[str, Any]) -> Table:
    """Return what the table in `file` says of which pictures.

    `options` name its columns: `path`, `label`, `split` and `group`, null for those that are called as is common;
    several columns for `label` are a class each. `root` is the folder that paths are relative to, null for that of the
    table, `separator` what stands between the labels of a cell. Raises `UserError` for a table that cannot be read so,
    a path that leads out of `root`, and a picture with two labels or groups.
    """
    _check_options(options)
    if not file.is_file():
        raise user_error("data.root", file, "a table that exists: .csv, .tsv, .parquet or .jsonl")
    frame = _frame(file)
    root = _root(file, options.get("root"))
    columns = {
        "path": _column(frame, "path", options, _PATHS),
        "split": _column(frame, "split", options, _SPLITS, optional=True),
        "group": _column(frame, "group", options, (), optional=True),
    }
    told = _told(file, frame, options)
    texts = {key: _texts(frame[name], name, file) if name else None for key, name in columns.items()}
    rows, findings = _rows(file, root, texts, told.labels, str(columns["split"]))
    findings += _unused_groups(frame, columns)
    splits = {split: [row for row in rows if row.split == split] for split in SPLITS}
    if not splits["train"]:
        raise user_error("data.root", file, "rows of train, with a path and a label each")
    findings += _without_row(root, {row.file for row in rows})
    labelled = {split: _labelled(own) for split, own in splits.items() if own}
    return Table(root, labelled, tuple(findings), told.multi_label, told.classes)


def _labelled(rows: Sequence[_Row]) -> Labelled:
    groups = tuple(row.group or "" for row in rows) if rows[0].group is not None else None
    return Labelled(tuple(Path(row.file) for row in rows), tuple(row.labels or () for row in rows), groups)


def _check_options(options: Mapping[str, Any]) -> None:
    for key, value in options.items():
        if key not in _OPTIONS:
            raise user_error(f"data.options.{key}", value, f"one of {', '.join(_OPTIONS)}", _OPTIONS)
        several = key == "label" and isinstance(value, list) and len(set(value)) == len(value) > 1
        if value == "" or not (value is None or isinstance(value, str) or several):
            raise user_error(f"data.options.{key}", value, _OPTIONS[key])
    if isinstance(options.get("label"), list) and options.get("separator"):
        raise user_error("data.options.separator", options["separator"], "null, since each class has its own column")


def _root(file: Path, given: str | None) -> Path:
    root = Path(os.path.normpath(file.parent / expanded(given or "")))
    if not root.is_dir():
        raise user_error("data.options.root", given, f"a folder that exists; {root} does not")
    return root


def _frame(file: Path) -> pd.DataFrame:
    """Return the table as it stands there; UserError where pandas cannot read it."""
    import pandas as pd  # half a second, for this source alone

    suffix = file.suffix.lower()
    try:
        if suffix in (".parquet", ".pq"):
            frame = pd.read_parquet(file)
        elif suffix in (".jsonl", ".ndjson"):
            frame = pd.read_json(file, lines=True, dtype=False)
        elif suffix in (".csv", ".tsv", ".tab", ".txt"):
            encoding = _encoding(file)
            separator = _SEPARATORS.get(suffix) or _separator(file, encoding)
            how = {"dtype": str, "na_filter": False, "index_col": False}
            with warnings.catch_warnings(action="error", category=pd.errors.ParserWarning):  # it drops what is too much
                frame = pd.read_csv(file, sep=separator, encoding=encoding, **how)
        else:
            raise user_error("data.root", file, "a table: .csv, .tsv, .parquet or .jsonl")
    except pd.errors.ParserWarning as error:
        raise user_error("data.root", file, "a table whose rows have as many fields as its head") from error
    except UnicodeError as error:
        raise user_error("data.root", file, f"a table in UTF-8 ({error})") from error
    except (OSError, ValueError, ImportError) as error:  # pandas' own are ValueErrors, as are pyarrow's
        reason = " ".join(str(error).split())[:200]
        raise user_error("data.root", file, f"a table that can be read ({reason})") from error
    frame.columns = [str(name).strip() for name in frame.columns]
    if twice := [name for name, count in Counter(frame.columns).items() if count > 1]:
        raise user_error("data.root", file, f"one column of each name, not several called {some(twice)}")
    if not len(frame):
        raise user_error("data.root", file, "a table with rows")
    return frame


def _encoding(file: Path) -> str:
    """Return UTF-8, with the mark that spreadsheets put before it or not, or UTF-16 where its mark says so."""
    with file.open("rb") as stream:
        return "utf-16" if stream.read(2) in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"


def _separator(file: Path, encoding: str) -> str:
    """Return what stands most often between the names of the columns."""
    with file.open(encoding=encoding) as stream:
        head = _QUOTED.sub("", stream.readline())
    return max(",;\t|", key=head.count)


def _column(
    frame: pd.DataFrame, what: str, options: Mapping[str, Any], common: Sequence[str], *, optional: bool = False
) -> str | None:
    """Return the name of a column: as it was given, or the only one that is called as is common."""
    key, columns = f"data.options.{what}", list(frame.columns)
    if (given := options.get(what)) is not None:
        if given not in columns:
            raise user_error(key, given, f"a column of the table: {some(columns)}", columns)
        return str(given)
    found = [name for name in columns if name.casefold() in common]
    if len(found) == 1:
        return found[0]
    if optional and not found:
        return None
    expected = "the column of the table that it is"
    raise user_error(key, "null", f"{expected}: {some(found or columns)}")


def _texts(column: pd.Series[Any], name: str, file: Path) -> list[str]:
    """Return the values as text, blanks around them left out; a whole number has no decimals, nothing is empty."""
    import pandas as pd

    if (
        column.dtype.kind == "f"
        and len(known := column.dropna())
        and (known % 1 == 0).all()
        and (abs(known) < 2**63).all()
    ):
        column = column.astype("Int64")
    elif _holds_lists(column):
        raise user_error("data.root", file, f"one text per row in column {printable(name)}, not a list")
    if isinstance(column.dtype, pd.CategoricalDtype):
        column = column.astype(object)
    return [text.strip() for text in column.astype("string").fillna("")]


@dataclass(frozen=True)
class _Told:
    labels: tuple[Labels | None, ...]
    """Of each row; None where none is told."""
    multi_label: bool
    classes: tuple[str, ...] | None


def _told(file: Path, frame: pd.DataFrame, options: Mapping[str, Any]) -> _Told:
    """Return the labels of all rows: a class each, those of a list, or those in whose columns there is a 1."""
    if isinstance(options.get("label"), list):
        names = [str(_column(frame, "label", {"label": name}, ())) for name in options["label"]]
        said = [_yes(_texts(frame[name], name, file), name) for name in names]
        rows = [tuple(name for name, one in zip(names, row, strict=True) if one) for row in zip(*said, strict=True)]
        return _Told(tuple(rows), True, tuple(names))
    name = str(_column(frame, "label", options, _LABELS))
    cells, separator = frame[name], options.get("separator")
    if _holds_lists(cells):
        lists = [_labels(cell, name) if _is_list(cell) else None for cell in cells]
        return _Told(tuple(lists), True, None)
    texts = _texts(cells, name, file)
    if separator is None:
        return _Told(tuple((text,) if text else None for text in texts), False, None)
    return _Told(tuple(_labels(text.split(separator), name) for text in texts), True, None)


def _labels(cell: Iterable[object], name: str) -> Labels:
    found = [str(label).strip() for label in cell if label is not None]
    if len(set(found)) < len(found):
        raise user_error("data.options.label", name, f"each label once in a cell, not {some(found)}")
    return tuple(label for label in found if label)


def _yes(texts: Sequence[str], name: str) -> list[bool]:
    """Return which of the cells of a class's column say that it is there."""
    if odd := {text or "(nothing)" for text in texts if text.casefold() not in _SAID}:
        expected = f"columns of 1 and 0 where each class has its own, but {printable(name)} has {some(sorted(odd))}"
        raise user_error("data.options.label", name, expected)
    return [_SAID[text.casefold()] for text in texts]


def _holds_lists(cells: pd.Series[Any]) -> bool:
    return cells.dtype == object and bool(cells.map(_is_list).any())


def _is_list(cell: object) -> bool:
    import pandas as pd

    return bool(pd.api.types.is_list_like(cell))


def _rows(
    file: Path,
    root: Path,
    texts: Mapping[str, list[str] | None],
    labels: Sequence[Labels | None],
    split_column: str,
) -> tuple[list[_Row], list[Finding]]:
    """Return the rows that say something, each once, and what is to be told of the others."""
    paths = texts["path"] or []
    if nowhere := [number for number, path in enumerate(paths, 1) if not path or "\0" in path]:
        raise user_error("data.root", file, f"a path in every row, but there is none in row {nowhere[0]}")
    files = [_normal(root, path) for path in paths]
    below = os.path.join(root, "")  # noqa: PTH118 - with the sign behind it, which `/` has already
    if outside := [path for path, found in zip(paths, files, strict=True) if not found.startswith(below)]:
        expected = f"paths below {root} (data.options.root), not {some(outside)}"
        raise user_error("data.root", file, expected)
    split_of = _split_of(texts["split"], split_column)
    groups: Sequence[str | None] = texts["group"] or [None] * len(paths)
    splits = [split_of[text] for text in texts["split"]] if texts["split"] else ["train"] * len(paths)
    every = [_Row(*values) for values in zip(files, labels, splits, groups, strict=True)]
    rows = [row for row in every if row.labels is not None]
    _check_each(file, root, "label", [(row.file, " + ".join(row.labels or [NONE])) for row in rows])
    _check_each(file, root, "group", [(row.file, row.group) for row in rows if row.group])
    once = list({(row.file, row.split): row for row in rows}.values())
    findings = []
    if unlabelled := [os.path.relpath(row.file, root) for row in every if row.labels is None]:
        told = f"{len(unlabelled):,} rows without a label are left out: {first_few(unlabelled)}"
        findings.append(Finding(told, True, tuple(unlabelled)))
    if again := len(rows) - len(once):
        findings.append(Finding(f"{again:,} rows name a picture again and count once"))
    return once, findings


def _normal(root: Path, path: str) -> str:
    """Return where a path leads, without a look at the disk; those of Windows are turned."""
    return os.path.normpath(os.path.join(root, path.replace("\\", "/")))  # noqa: PTH118 - a Path for each takes seconds


def _split_of(texts: Sequence[str] | None, column: str) -> dict[str, str]:
    """Return which split each value of a column means."""
    values = list(dict.fromkeys(texts or ()))
    roles = dict(zip(values, roles_of(values), strict=True))
    if odd := [value or "(nothing)" for value, role in roles.items() if role not in SPLITS]:
        expected = f"a column of train, val and test, not of {some(odd)}"
        raise user_error("data.options.split", column, expected)
    return {value: str(role) for value, role in roles.items()}


def _check_each(file: Path, root: Path, what: str, rows: Sequence[tuple[str, str]]) -> None:
    """Raise `UserError` where a picture has two of `what`, a label or a group; a row is its file and that."""
    known: dict[str, str] = {}
    odd = {path: text for path, text in rows if known.setdefault(path, text) != text}
    if odd:
        each = some(f"{os.path.relpath(path, root)} is {known[path]} and {text}" for path, text in odd.items())
        raise UserError(f"data.root={file}: expected one {what} for each picture, but {each}")


def _unused_groups(frame: pd.DataFrame, columns: Mapping[str, str | None]) -> list[Finding]:
    """Return the hint that a column looks like one of groups that are to stay together."""
    if columns["group"] is not None or columns["split"] is not None:
        return []
    return [
        Finding(f"column {name} is not used: data.options.group={name} keeps its pictures on one side of every split")
        for name in frame.columns
        if name.casefold() in _GROUPS
    ][:1]


def _without_row(root: Path, named: set[str]) -> list[Finding]:
    listed = [os.path.relpath(path, root) for path in survey(root).files if str(path) not in named]
    if not listed:
        return []
    told = f"{len(listed):,} pictures below {root} are in no row of the table: {first_few(listed)}"
    return [Finding(told, pictures=tuple(listed))]
