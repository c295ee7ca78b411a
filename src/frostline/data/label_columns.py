"""Parse labels from columns of a table, of a Hugging Face data set, or of samples in shards.

An image has one class. It is multi-label, with any number of classes, if a cell holds a list, or text with a separator,
or if each class has its own column.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from frostline.core.errors import user_error
from frostline.data.findings import Finding
from frostline.data.names import printable, some

LABELS = ("label", "labels", "class", "category", "species", "target", "class_name", "classname")
"""Common names of label columns, used if none is given."""
_SAID = {"1": True, "1.0": True, "true": True, "yes": True, "0": False, "0.0": False, "false": False, "no": False}
"""Values in the column of a class, including the floats that pandas makes of integers beside missing values."""

_SEPARATORS = ("|", ";", ",")
Labels = tuple[str, ...]
"""The class names of an image: one, or any number if it is multi-label."""
Cell = str | Sequence[str] | None
"""A value of a column: a text, empty if it is missing, or a list."""
LabelledImages = TypeVar("LabelledImages")
"""The images of a split with labels and groups by name."""


@dataclass(frozen=True)
class DataSet(Generic[LabelledImages]):
    """The content of a data set of the hub, or of shards."""

    splits: Mapping[str, LabelledImages]
    """At least `train`."""
    classes: tuple[str, ...]
    """All class names in the data set's order; empty if the labels themselves are the names."""
    multi_label: bool
    """Whether images may have several classes, or none."""
    findings: tuple[Finding, ...]
    damage: tuple[str, ...] = ()
    """Unreadable parts, a line each."""


def check_options(
    options: Mapping[str, object],
    known: Mapping[str, str],
    *,
    one: str = "the name of a column",
    lists: Collection[str] = ("label",),
) -> None:
    """Raise `UserError` for options that are not `known`, or whose value is neither a text nor, in `lists`, a list.

    `known` has what is expected of each option; `one` says what `label` may be.
    """
    for key, value in options.items():
        if key not in known:
            raise user_error(f"data.options.{key}", value, f"one of {', '.join(known)}", known)
    label, separator = options.get("label"), options.get("separator")
    names = isinstance(label, list) and all(isinstance(name, str) and name for name in label)
    if isinstance(label, list) and not (names and len(set(label)) == len(label) > 1):
        raise user_error("data.options.label", label, f"{one}, two or more of them, or null")
    if separator is not None and (separator == "" or not isinstance(separator, str)):
        raise user_error("data.options.separator", separator, "the text between the labels of a cell, or null")
    if isinstance(label, list) and separator is not None:
        raise user_error("data.options.separator", separator, "null, since each class has its own column")
    for key, value in options.items():
        if not (value is None or isinstance(value, str) or (key in lists and isinstance(value, list))):
            raise user_error(f"data.options.{key}", value, known[key])


def holds_several(cells: Iterable[Cell], separator: str | None) -> bool:
    """Return whether a column is multi-label: it has lists, or there is a `separator`."""
    return separator is not None or any(isinstance(cell, Sequence) and not isinstance(cell, str) for cell in cells)


def of_cells(cells: Iterable[Cell], name: str, separator: str | None) -> list[Labels | None]:
    """Return the labels of each row of the column `name`, None for a row without one.

    A text is one label. A list, or a text if there is a `separator`, has any number of them, an empty one none. Raises
    `UserError` for a cell with a label twice.
    """

    def labels(cell: Cell) -> Labels | None:
        if cell is None or (cell == "" and separator is None):
            return None
        if not isinstance(cell, str):
            return _once(cell, name)
        return (cell,) if separator is None else _once(cell.split(separator), name)

    return [*map(labels, cells)]


def joint(names: Collection[str]) -> list[Finding]:
    """Return a hint if some `names` of classes are probably several labels in one text.

    Every part of these is in another name, too: not so in `Albany, NY` and `Austin, TX`.
    """
    for text in _SEPARATORS:
        parts = {name: {part.strip() for part in name.split(text)} for name in sorted(names)}
        in_names = Counter(part for own in parts.values() for part in own)
        several = [name for name, own in parts.items() if len(own) > 1]
        if len(several) > 1 and all(part and in_names[part] > 1 for name in several for part in parts[name]):
            how = f"data.options.separator='\"{text}\"' reads them as such"
            return [Finding(f"labels such as {printable(several[0])} seem to be several: {how}", True)]
    return []


def of_columns(cells: Mapping[str, Sequence[Cell]], separator: str | None) -> list[Labels | None]:
    """Return the labels of each row, None for a row without any, from one column, or from one column per class."""
    if len(cells) > 1:
        return of_classes({name: [*map(one_text, own)] for name, own in cells.items()})
    [(name, own)] = cells.items()
    return of_cells(own, name, separator)


def one_text(cell: Cell) -> str:
    """Return a cell as one text, lists joined by commas."""
    return cell if isinstance(cell, str) else ", ".join(cell or ())


def of_classes(columns: Mapping[str, Sequence[str]]) -> list[Labels | None]:
    """Return the labels of each row from one column of 1 and 0 per class; None for rows in which all are empty."""
    rows = [*zip(*columns.values(), strict=True)]
    for name, cells in zip(columns, zip(*rows, strict=True), strict=True):
        said = {cell for row, cell in zip(rows, cells, strict=True) if any(row)}
        if odd := sorted(cell or "(nothing)" for cell in said if cell.casefold() not in _SAID):
            expected = f"columns of 1 and 0, one per class, but {printable(name)} has {some(odd)}"
            raise user_error("data.options.label", name, expected)
    return [
        tuple(name for name, cell in zip(columns, row, strict=True) if _SAID[cell.casefold()]) if any(row) else None
        for row in rows
    ]


def _once(texts: Iterable[str], name: str) -> Labels:
    found = [text for label in texts if (text := label.strip())]
    if len(set(found)) < len(found):
        expected = f"each label once in a cell, not {some(found)}"
        if {*found} <= {"0", "1"}:
            expected = "class names in a list, or a column of 1 and 0 for each class, not a list of 1 and 0"
        raise user_error("data.options.label", name, expected)
    return tuple(found)
