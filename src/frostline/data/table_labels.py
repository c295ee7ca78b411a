"""What the cells of a table say of labels: a class each, a list, text with a separator, or a column for each class."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from frostline.core.errors import user_error
from frostline.data import table_columns
from frostline.data.names import printable, some

if TYPE_CHECKING:
    import pandas as pd

LABELS = ("label", "class", "category", "species", "target", "class_name", "classname")
"""By which a column of labels is found that is not named."""
_SAID = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}

Labels = tuple[str, ...]
"""The classes of a picture: one, or any number where the table is multi-label."""


@dataclass(frozen=True)
class Told:
    """What a table says of labels."""

    labels: tuple[Labels | None, ...]
    """Of each row; None where none is told."""
    multi_label: bool
    """Whether pictures may be of several classes, or of none."""
    classes: tuple[str, ...] | None
    """Those that have columns of their own, in their order; None where they are what cells say."""


def read(file: Path, frame: pd.DataFrame, options: Mapping[str, Any]) -> Told:
    """Return the labels of all rows: a class each, those of a list, or those in whose columns there is a 1."""
    columns = list(frame.columns)
    if isinstance(options.get("label"), list):
        names = [str(table_columns.find(columns, "data.options.label", name, ())) for name in options["label"]]
        said = [_yes(table_columns.texts(frame[name], name, file), name) for name in names]
        rows = [tuple(name for name, one in zip(names, row, strict=True) if one) for row in zip(*said, strict=True)]
        return Told(tuple(rows), True, tuple(names))
    name = str(table_columns.find(columns, "data.options.label", options.get("label"), LABELS))
    cells, separator = frame[name], options.get("separator")
    if table_columns.holds_lists(cells):
        return Told(tuple(_of_cell(cell, name) for cell in cells), True, None)
    texts = table_columns.texts(cells, name, file)
    if separator is None:
        return Told(tuple((text,) if text else None for text in texts), False, None)
    return Told(tuple(_labels(text.split(separator), name) for text in texts), True, None)


def _of_cell(cell: Any, name: str) -> Labels | None:
    """Return the labels of a cell in a column of lists, where a text is a list of one; None where nothing stands."""
    if table_columns.is_list(cell):
        return _labels(cell, name)
    import pandas as pd

    return None if pd.isna(cell) else _labels([cell], name)


def _labels(cell: Iterable[object], name: str) -> Labels:
    found = [text for label in cell if label is not None and (text := str(label).strip())]
    if len(set(found)) < len(found):
        raise user_error("data.options.label", name, f"each label once in a cell, not {some(found)}")
    return tuple(found)


def _yes(texts: Sequence[str], name: str) -> list[bool]:
    """Return which of the cells of a class's column say that it is there."""
    if odd := {text or "(nothing)" for text in texts if text.casefold() not in _SAID}:
        expected = f"columns of 1 and 0 where each class has its own, but {printable(name)} has {some(sorted(odd))}"
        raise user_error("data.options.label", name, expected)
    return [_SAID[text.casefold()] for text in texts]
