"""What columns say of labels, be they of a table, of a data set or of the samples in shards.

A picture is of one class; or it is multi-label, of any number of them, where a cell holds a list, or text that is
parted by a separator, or where each class is a column of its own.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

from frostline.core.errors import user_error
from frostline.data.names import printable, some

LABELS = ("label", "labels", "class", "category", "species", "target", "class_name", "classname")
"""By which a column of labels is found that is not named."""
_SAID = {"1": True, "1.0": True, "true": True, "yes": True, "0": False, "0.0": False, "false": False, "no": False}
"""What a column of a class says, numbers as pandas writes them beside empty rows among them."""

Labels = tuple[str, ...]
"""The classes of a picture: one, or any number where it is multi-label."""
Cell = str | Sequence[str] | None
"""What stands in a row of a column: text, empty where there is nothing, or a list."""


def check_options(options: Mapping[str, object], known: Collection[str], one: str = "the name of a column") -> None:
    """Raise `UserError` for what is not `known`, or cannot say where labels stand; `one` is what `label` may be."""
    for key, value in options.items():
        if key not in known:
            raise user_error(f"data.options.{key}", value, f"one of {', '.join(known)}", known)
    label, separator = options.get("label"), options.get("separator")
    names = isinstance(label, list) and all(isinstance(name, str) and name for name in label)
    if isinstance(label, list) and not (names and len(set(label)) == len(label) > 1):
        raise user_error("data.options.label", label, f"{one}, two or more of them, or null")
    if separator is not None and (separator == "" or not isinstance(separator, str)):
        raise user_error("data.options.separator", separator, "what stands between the labels of a cell, or null")
    if isinstance(label, list) and separator is not None:
        raise user_error("data.options.separator", separator, "null, since each class has its own column")


def holds_several(cells: Iterable[Cell], separator: str | None) -> bool:
    """Return whether pictures may be of several classes, or of none, by what stands in a column."""
    return separator is not None or any(isinstance(cell, Sequence) and not isinstance(cell, str) for cell in cells)


def of_cells(cells: Iterable[Cell], name: str, *, separator: str | None, several: bool) -> list[Labels | None]:
    """Return the labels of each row of the column `name`, None where none is told.

    A text is one label; where there may be `several`, a list is any number of them, and so is a text with `separator`,
    of which an empty one is none of them. Raises `UserError` for a cell with a label twice.
    """

    def labels(cell: Cell) -> Labels | None:
        if cell is None or (cell == "" and separator is None):
            return None
        if not isinstance(cell, str):
            return _once(cell, name)
        return _once(cell.split(separator), name) if several and separator is not None else (cell,)

    return [*map(labels, cells)]


def of_columns(cells: Mapping[str, Sequence[Cell]], *, separator: str | None, several: bool) -> list[Labels | None]:
    """Return the labels of each row, None where none is told, by one column, or by one for each class."""
    if len(cells) > 1:
        return of_classes({name: [*map(one_text, own)] for name, own in cells.items()})
    [(name, own)] = cells.items()
    return of_cells(own, name, separator=separator, several=several)


def one_text(cell: Cell) -> str:
    """Return what stands in a cell as one text."""
    return cell if isinstance(cell, str) else ", ".join(cell or ())


def of_classes(columns: Mapping[str, Sequence[str]]) -> list[Labels | None]:
    """Return the labels of each row where classes have `columns` of their own, of 1 and 0; None where all are empty."""
    rows = [*zip(*columns.values(), strict=True)]
    for name, cells in zip(columns, zip(*rows, strict=True), strict=True):
        said = {cell for row, cell in zip(rows, cells, strict=True) if any(row)}
        if odd := sorted(cell or "(nothing)" for cell in said if cell.casefold() not in _SAID):
            expected = f"columns of 1 and 0 where each class has its own, but {printable(name)} has {some(odd)}"
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
            expected = "names of classes in a list, or a column of 1 and 0 for each class, not a list of 1 and 0"
        raise user_error("data.options.label", name, expected)
    return tuple(found)
