"""Columns of a table: found by a given or a common name, and read as text."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from frostline.core.errors import UserError, first_few, user_error
from frostline.data.names import printable, some

if TYPE_CHECKING:
    import pandas as pd


def find(
    columns: Sequence[str], key: str, given: str | None, common: Sequence[str], *, optional: bool = False
) -> str | None:
    """Return the name of a column: the `given` one, or the only one with a `common` name; `UserError` if ambiguous."""
    if given is not None:
        if given not in columns:
            raise user_error(key, given, f"a column of the table: {some(columns)}", columns)
        return given
    found = [name for name in columns if name.casefold() in common]
    if len(found) == 1:
        return found[0]
    if optional and not found:
        return None
    lacking = f"none has a common name ({first_few(common)})"
    raise not_named(key, "table", found or columns, "several have common names" if found else lacking)


def not_named(key: str, owner: str, columns: Iterable[str], why: str) -> UserError:
    """Return the error for a column that the user has to name by `key`, one of `columns` of the `owner`."""
    return user_error(key, "<column>", f"one of the {owner}'s columns, since {why}: {some(columns)}")


def texts(column: pd.Series[Any], name: str, file: Path) -> list[str]:
    """Return the values as stripped text: integers without decimals, missing values as an empty text."""
    import pandas as pd

    if (
        column.dtype.kind == "f"
        and len(known := column.dropna())
        and (known % 1 == 0).all()
        and (abs(known) < 2**63).all()
    ):
        column = column.astype("Int64")
    if isinstance(column.dtype, pd.CategoricalDtype):
        column = column.astype(object)
    try:
        if not holds_lists(column):
            return [text.strip() for text in column.astype("string").fillna("")]
    except UnicodeDecodeError:  # bytes that are no text
        pass
    expected = f"one text per row in column {printable(name)}, not a list, an object or bytes (data=hub reads images)"
    raise user_error("data.root", file, expected)


def holds_lists(cells: pd.Series[Any]) -> bool:
    """Return whether any of the cells is a list."""
    return cells.dtype == object and bool(cells.map(is_list).any())


def is_list(cell: object) -> bool:
    """Return whether a cell is list-like."""
    import pandas as pd

    return bool(pd.api.types.is_list_like(cell))


def cells(column: pd.Series[Any], name: str, file: Path) -> list[list[str] | str | None]:
    """Return the values of a column of lists, each a list of texts; other values as text, missing ones as None.

    UserError for a mapping, or a list of lists or mappings.
    """
    import pandas as pd

    def cell(value: Any) -> list[str] | str | None:
        if is_list(value):
            if isinstance(value, Mapping) or any(map(is_list, value)):
                found = json.dumps(value, default=str)[:100]
                expected = f"a text or a list of texts per row in column {printable(name)}, not {found}"
                raise user_error("data.root", file, expected)
            return [str(one) for one in value if one is not None]
        return None if pd.isna(value) else str(value).strip()

    return [cell(value) for value in column]
