"""Read table files, CSV, TSV, Parquet or JSON lines: whole for training, or in parts for streaming.

Errors of pandas and pyarrow become a `UserError` of one line.
"""

from __future__ import annotations

import json
import re
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from frostline.core.errors import UserError, one_line, user_error
from frostline.core.files import parsed
from frostline.data.names import some

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

_PARQUET, _LINES = (".parquet", ".pq"), (".jsonl", ".ndjson")
_TEXT = (".csv", ".tsv", ".tab", ".txt")
SUFFIXES = (*_TEXT, *_PARQUET, *_LINES)
_SEPARATORS = {".tsv": "\t", ".tab": "\t"}
_TOLD = re.compile("sep=(.)\\s*", re.IGNORECASE)  # first line in which spreadsheets declare the separator
_QUOTED = re.compile('"[^"]*"')
AS_JSON = b"json"
"""Metadata of a column from JSON lines whose values are objects or of several types: each value is JSON text."""
_EXACT = 2**53  # below this, floats, to which a null turns a column of integers, are exact
_ROWS = 16_384  # rows of a part: few enough for any memory, enough for little overhead


def whole(file: Path, key: str) -> pd.DataFrame:
    """Return the whole table; UserError for `key` if it cannot be read or has no rows."""
    import pandas as pd  # half a second, needed for tables only

    suffix = file.suffix.lower()
    with _reading(file, key):
        if suffix in _PARQUET:
            frame = _whole_parquet(file)
        elif suffix in _LINES:
            frame = _whole_lines(file)
        else:
            frame = _without_empty(pd.read_csv(file, **_format(file)))
    frame.columns = _names([str(name) for name in frame.columns], file, key)
    if not len(frame):
        raise user_error(key, file, "a table with rows")
    return frame


def _whole_lines(file: Path) -> pd.DataFrame:
    """Read JSON lines by Python: pandas rounds integers beside nulls, and its errors do not name the line."""
    import pandas as pd

    rows = [row for part in _parsed(file) for row in part]
    columns = {name: [row.get(name) for row in rows] for name in dict.fromkeys(key for row in rows for key in row)}
    long = {name for name, cells in columns.items() if any(type(one) is int and abs(one) >= _EXACT for one in cells)}
    return pd.DataFrame(
        {name: pd.Series(cells, dtype=object if name in long else None) for name, cells in columns.items()}
    )


def _whole_parquet(file: Path) -> pd.DataFrame:
    """Read Parquet by pandas, but keep lists, indexes as columns, and integers beside nulls, which it makes floats."""
    import pandas as pd
    import pyarrow as pa
    from pyarrow import parquet

    stored = parquet.read_table(file)
    frame: pd.DataFrame = stored.to_pandas(ignore_metadata=True)
    for field in stored.schema:
        listed = pa.types.is_list(field.type) or pa.types.is_large_list(field.type)
        rounded = pa.types.is_integer(field.type) and stored[field.name].null_count
        if listed or rounded:
            frame[field.name] = pd.Series(stored[field.name].to_pylist(), dtype=object)
    return frame


def parts(file: Path, key: str) -> Iterator[pa.Table]:
    """Yield the table in parts of several thousand rows with the same schema; CSV values are text.

    Values that no Arrow type holds are `AS_JSON`. UserError for `key` if the table cannot be read, perhaps only after
    some parts.
    """
    suffix = file.suffix.lower()
    with _reading(file, key):
        found = _of_parquet(file) if suffix in _PARQUET else _of_lines(file) if suffix in _LINES else _of_text(file)
        for part in found:
            yield part.rename_columns(_names(part.column_names, file, key))


def _names(names: Sequence[str], file: Path, key: str) -> list[str]:
    """Return the stripped column names; UserError for `key` if one occurs twice."""
    bare = [name.strip() for name in names]
    if twice := [name for name, count in Counter(bare).items() if count > 1]:
        raise user_error(key, file, f"one column of each name, not several called {some(twice)}")
    return bare


@contextmanager
def _reading(file: Path, key: str) -> Iterator[None]:
    """Turn errors of the block into a `UserError` for `key`."""
    import pandas as pd

    if file.suffix.lower() not in SUFFIXES:
        raise user_error(key, file, "a table: .csv, .tsv, .parquet or .jsonl")
    try:
        with warnings.catch_warnings(action="error", category=pd.errors.ParserWarning):  # pandas drops extra fields
            yield
    except UserError:
        raise
    except pd.errors.ParserWarning as error:
        raise user_error(key, file, "a table whose rows have as many fields as its head") from error
    except UnicodeError as error:
        raise user_error(key, file, f"a table in UTF-8, as which spreadsheets save it if asked to ({error})") from error
    except (OSError, ValueError, TypeError, ImportError) as error:  # pandas' own are ValueErrors, as are pyarrow's
        raise user_error(key, file, f"a table that can be read ({one_line(error)})") from error


def _format(file: Path) -> dict[str, Any]:
    """Return the arguments of `read_csv`: separator, encoding, and every cell as text, without blanks before it."""
    encoding = _encoding(file)
    with file.open(encoding=encoding) as stream:
        head = stream.readline()
    told = _TOLD.fullmatch(head)
    often = max(",;\t|", key=_QUOTED.sub("", head).count)  # the most frequent separator in the header
    separator = told[1] if told else _SEPARATORS.get(file.suffix.lower(), often)
    how = {"sep": separator, "encoding": encoding, "skiprows": 1 if told else 0}
    return {**how, "dtype": str, "na_filter": False, "index_col": False, "skipinitialspace": True}


def _encoding(file: Path) -> str:
    """Return the encoding: UTF-16 if there is its byte order mark, else UTF-8, with or without one."""
    with file.open("rb") as stream:
        return "utf-16" if stream.read(2) in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"


def _without_empty(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows that are not empty: spreadsheets also write rows that were once in use."""
    return rows[(rows != "").any(axis=1)].reset_index(drop=True)


def _of_text(file: Path) -> Iterator[pa.Table]:
    import pandas as pd
    import pyarrow as pa

    with pd.read_csv(file, **_format(file), chunksize=_ROWS) as frames:
        for frame in frames:
            schema = pa.schema([(str(name), pa.string()) for name in frame.columns])
            yield pa.Table.from_pandas(_without_empty(frame), schema, preserve_index=False).replace_schema_metadata()


def _of_parquet(file: Path) -> Iterator[pa.Table]:
    import pyarrow as pa
    from pyarrow import parquet

    with parquet.ParquetFile(file) as stored:
        for batch in stored.iter_batches(_ROWS):
            yield pa.Table.from_batches([batch]).replace_schema_metadata()


def _of_lines(file: Path) -> Iterator[pa.Table]:
    """Yield the rows of JSON lines in two passes, since the last row may still change the type of a column."""
    import pyarrow as pa

    types: dict[str, pa.DataType | None] = {}
    for rows in _parsed(file):
        for name in dict.fromkeys(key for row in rows for key in row):
            types[name] = _wider(types.get(name, pa.null()), [row.get(name) for row in rows])
    mixed = [name for name, one in types.items() if one is None]
    fields = [
        pa.field(name, one or pa.string(), metadata=None if one else {AS_JSON: b""}) for name, one in types.items()
    ]
    for rows in _parsed(file):
        for row in rows:
            row |= {name: json.dumps(row[name]) for name in mixed if row.get(name) is not None}
        yield pa.Table.from_pylist(rows, pa.schema(fields))


def _wider(known: pa.DataType | None, values: Sequence[Any]) -> pa.DataType | None:
    """Return the type of a column that also holds `values`; None if no single type does, or they are objects."""
    import pyarrow as pa

    if known is None:
        return None
    try:
        both = [pa.schema([("", known)]), pa.schema([("", pa.array(values).type)])]
        found = pa.unify_schemas(both, promote_options="permissive").field(0).type
    except (pa.ArrowException, OverflowError):
        return None
    return None if "struct<" in str(found) else found


def _parsed(file: Path) -> Iterator[list[dict[str, Any]]]:
    with file.open(encoding=_encoding(file)) as stream:
        lines = ((number, line) for number, line in enumerate(stream, 1) if line.strip())
        while part := list(islice(lines, _ROWS)):
            yield [_object(*line) for line in part]


def _object(number: int, line: str) -> dict[str, Any]:
    """Return the JSON object of a line; ValueError, with the line number, if it is not one."""
    try:
        row = parsed(line)
    except ValueError as error:
        raise ValueError(f"line {number:,}: {error}") from None
    if not isinstance(row, dict):
        raise ValueError(f"line {number:,} is not an object")
    return row
