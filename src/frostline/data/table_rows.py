"""Rows of a label table: one per image and split, checked for contradictions about an image."""

from __future__ import annotations

import math
import os
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from frostline.core.errors import UserError, user_error
from frostline.core.labels import NONE
from frostline.data import remote_files
from frostline.data.findings import Finding, of_names
from frostline.data.image_formats import SUFFIXES
from frostline.data.label_columns import Labels
from frostline.data.layouts import SPLITS, roles_of
from frostline.data.names import counted, some

_TRIED = 100  # paths that may have no file before the suffix, or the form, of the others is given up

Form = Literal["NFC", "NFD"]
"""A form of Unicode: letters such as ä are one character (NFC), or two, a letter and its mark (NFD)."""


@dataclass(frozen=True)
class Spelling:
    """How the files are named that the paths of a table mean."""

    form: Form | None
    """The form of Unicode of the names where the paths have the other; None where they are the same."""
    suffix: str
    """The suffix that the paths lack, as ids do; empty if they lack none."""

    def of(self, path: str) -> str:
        """Return a path of the table as its file is named."""
        return _in_form(path, self.form) + self.suffix

    def findings(self) -> list[Finding]:
        """Return findings about what differs between the paths and the names."""
        found = [Finding(f"paths in the table have no suffix: read as {self.suffix}")] if self.suffix else []
        if self.form:
            found.append(Finding(f"paths in the table are read in the Unicode form of the files' names, {self.form}"))
        return found


@dataclass(frozen=True)
class Row:
    """Path, labels and further values of an image in a row."""

    file: str
    """Absolute, normalised path."""
    labels: Labels | None
    """None if the row has no label."""
    split: str
    group: str | None
    time: str | None
    weight: float | None


def rows_of(
    file: Path,
    root: Path,
    texts: Mapping[str, list[str] | None],
    labels: Sequence[Labels | None],
    split_column: str,
    *,
    long: bool,
) -> tuple[list[Row], set[str], list[Finding]]:
    """Return the rows with labels, each once, the files of all rows, and findings about the other rows.

    If the table is `long`, the rows of an image are joined into one with all of their labels.
    """
    paths = texts["path"] or []
    spelling = spelling_of(root, paths)
    texts = {**texts, "path": [path and spelling.of(path) for path in paths]}
    every = _read(file, root, texts, labels, split_column)
    rows = [row for row in every if row.labels is not None]
    if not long:
        _check_each(file, root, "label", [(row.file, " + ".join(row.labels or [NONE])) for row in rows])
    _check_each(file, root, "group", [(row.file, row.group) for row in rows if row.group])
    _check_each(file, root, "time", [(row.file, row.time) for row in rows if row.time])
    _check_each(file, root, "weight", [(row.file, f"{row.weight:g}") for row in rows if row.weight])
    once = _together(rows) if long else list({(row.file, row.split): row for row in rows}.values())
    once = _completed(once, rows)
    findings = spelling.findings()
    if unlabelled := [os.path.relpath(row.file, root) for row in every if row.labels is None]:
        left_out = ("row without a label is left out", "rows without a label are left out")
        findings.append(of_names(unlabelled, *left_out))
    if (again := len(rows) - len(once)) and not long:
        once_more = ("row repeats an image and is ignored", "rows repeat an image and are ignored")
        findings.append(Finding(counted(again, *once_more)))
    return once, {row.file for row in every}, findings


def _read(
    file: Path, root: Path, texts: Mapping[str, list[str] | None], labels: Sequence[Labels | None], split_column: str
) -> list[Row]:
    """Return all rows; UserError if a row has no path, or one that leads out of `root`."""
    paths = texts["path"] or []
    if nowhere := [number for number, path in enumerate(paths, 1) if not path or "\0" in path]:
        raise user_error("data.root", file, f"a path in every row, but there is none in row {nowhere[0]}")
    if elsewhere := [path for path in paths if remote_files.is_elsewhere(path)]:
        expected = f"paths of files, not {some(elsewhere)}: fetch these, or put them into tar files (data=shards)"
        raise user_error("data.root", file, expected)
    files = [normal(root, path) for path in paths]
    below = os.path.join(root, "")  # noqa: PTH118 - with one separator at the end, also for `/`
    if outside := [path for path, found in zip(paths, files, strict=True) if not found.startswith(below)]:
        expected = f"paths below {root} (data.options.root), not {some(outside)}"
        raise user_error("data.root", file, expected)
    split_of = _split_of(texts["split"], split_column)
    groups: Sequence[str | None] = texts["group"] or [None] * len(paths)
    moments: Sequence[str | None] = texts["time"] or [None] * len(paths)
    splits = [split_of[text] for text in texts["split"]] if texts["split"] else ["train"] * len(paths)
    weights: Sequence[float | None] = _weights(texts["weight"]) if texts["weight"] else [None] * len(paths)
    return [Row(*values) for values in zip(files, labels, splits, groups, moments, weights, strict=True)]


def _together(rows: Sequence[Row]) -> list[Row]:
    """Return one row per image and split, with the labels of all its rows, each once."""
    of: dict[tuple[str, str], Row] = {}
    labels: dict[tuple[str, str], dict[str, None]] = {}
    for row in rows:
        place = (row.file, row.split)
        of.setdefault(place, row)
        labels.setdefault(place, {}).update(dict.fromkeys(row.labels or ()))
    return [replace(row, labels=tuple(labels[place])) for place, row in of.items()]


def _completed(once: Sequence[Row], rows: Sequence[Row]) -> list[Row]:
    """Return the rows `once` with group and time of their image, which may be given in only one of its `rows`."""
    groups = {row.file: row.group for row in rows if row.group}
    times = {row.file: row.time for row in rows if row.time}
    found = []
    for row in once:
        group, time = groups.get(row.file, row.group), times.get(row.file, row.time)
        found.append(row if (group, time) == (row.group, row.time) else replace(row, group=group, time=time))
    return found


def _weights(texts: Sequence[str]) -> list[float]:
    """Return the weights of images; UserError unless each is a finite number above 0."""
    import pandas as pd

    found = pd.to_numeric(pd.Series(texts, dtype=object), errors="coerce").astype(float)
    if odd := [text or "(nothing)" for text, value in zip(texts, found, strict=True) if not 0 < value < math.inf]:
        raise user_error("data.options.weight", some(dict.fromkeys(odd)), "a column of finite numbers above 0")
    return [*found]


def normal(root: Path, path: str) -> str:
    """Return the normalised path below `root`, without access to the disk; backslashes become slashes."""
    return os.path.normpath(os.path.join(root, path.replace("\\", "/")))  # noqa: PTH118 - a Path for each takes seconds


def spelling_of(root: Path, paths: Sequence[str]) -> Spelling:
    """Return how the files below `root` are named that `paths` of a table mean, from the first of them."""
    return Spelling(_form_of(root, paths), _suffix_of(root, paths))


def _in_form(path: str, form: Form | None) -> str:
    """Return a path in a form of Unicode; as it is for None."""
    return unicodedata.normalize(form, path) if form else path


def _form_of(root: Path, paths: Sequence[str]) -> Form | None:
    """Return the form of Unicode in which files below `root` have the names that `paths` write in the other.

    None if files are found by the paths as they are, or in neither form. Files from macOS often have NFD.
    """
    for path in [path for path in paths if not path.isascii()][:_TRIED]:
        forms: list[Form | None] = [None, "NFC", "NFD"]
        if found := [form for form in forms if os.path.isfile(normal(root, _in_form(path, form)))]:
            return found[0]
    return None


def _suffix_of(root: Path, paths: Sequence[str]) -> str:
    """Return the suffix that all `paths` of images below `root` lack, as ids do; empty if they lack none.

    It is the one with which the first path of a file is found; empty if two fit it, such as .jpg and .png.
    """
    if any(path.lower().endswith(SUFFIXES) for path in paths):
        return ""
    either = (*SUFFIXES, *map(str.upper, SUFFIXES))
    for place in (normal(root, path) for path in paths[:_TRIED]):
        found = {one.lower(): one for one in reversed(either) if os.path.isfile(place + one)}
        if os.path.isfile(place) or found:
            return "" if os.path.isfile(place) or len(found) > 1 else found.popitem()[1]
    return ""


def _split_of(texts: Sequence[str] | None, column: str) -> dict[str, str]:
    """Return the split for each value of a column; `UserError` for other values."""
    values = list(dict.fromkeys(texts or ()))
    roles = dict(zip(values, roles_of(values), strict=True))
    if odd := [value or "(nothing)" for value, role in roles.items() if role not in SPLITS]:
        expected = f"a column of train, val and test, not of {some(odd)}"
        raise user_error("data.options.split", column, expected)
    return {value: str(role) for value, role in roles.items()}


def _check_each(file: Path, root: Path, what: str, rows: Sequence[tuple[str, str]]) -> None:
    """Raise `UserError` if an image has two different values of `what`; `rows` are pairs of file and value."""
    known: dict[str, str] = {}
    odd = {path: text for path, text in rows if known.setdefault(path, text) != text}
    if odd:
        each = some(f"{os.path.relpath(path, root)} is {known[path]} and {text}" for path, text in odd.items())
        hint = "; data.options.rows=labels reads them as images of several classes" if what == "label" else ""
        raise UserError(f"data.root={file}: expected one {what} for each image, but {each}{hint}")
