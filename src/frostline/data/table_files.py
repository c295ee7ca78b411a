"""Files that hold tables, CSV, TSV, Parquet or JSON lines: read whole for who trains, in parts for who goes through.

What pandas and pyarrow complain about is one line here.
"""

from __future__ import annotations

import json
import re
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
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
_TOLD = re.compile("sep=(.)\\s*", re.IGNORECASE)  # a first line by which spreadsheets tell each other
_QUOTED = re.compile('"[^"]*"')
AS_JSON = b"json"
"""Metadata of a column of JSON lines whose values have keys, or are of several kinds: here each is JSON, as text."""
_EXACT = 2**53  # below which a float, which a null makes of a column of numbers, holds each whole number
_ROWS = 16_384  # of a part: few enough for any memory, enough for their overhead to be nothing


def whole(file: Path, key: str) -> pd.DataFrame:
    """Return the table as it stands there; UserError, which says it of `key`, where it cannot be read."""
    import pandas as pd  # half a second, for tables alone

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
    """Return what pandas makes of JSON lines, but where it refuses or rounds whole numbers, as it does beside nulls."""
    import pandas as pd

    with suppress(ValueError, TypeError):
        frame = pd.read_json(file, lines=True, dtype=False)
        if not (frame.select_dtypes("float").abs() >= _EXACT).any(axis=None):
            return frame
    rows = [row for part in _parsed(file) for row in part]  # half as fast; names the line that is none
    columns = {name: [row.get(name) for row in rows] for name in dict.fromkeys(key for row in rows for key in row)}
    long = {name for name, cells in columns.items() if any(type(one) is int and abs(one) >= _EXACT for one in cells)}
    return pd.DataFrame(
        {name: pd.Series(cells, dtype=object if name in long else None) for name, cells in columns.items()}
    )


def _whole_parquet(file: Path) -> pd.DataFrame:
    """Return what pandas makes of Parquet, but for whole numbers and lists, which a null turns into floats."""
    import pandas as pd
    import pyarrow as pa
    from pyarrow import parquet

    stored = parquet.read_table(file)
    frame: pd.DataFrame = stored.to_pandas()
    for field in stored.schema:
        listed = pa.types.is_list(field.type) or pa.types.is_large_list(field.type)
        rounded = pa.types.is_integer(field.type) and stored[field.name].null_count
        if field.name in frame and (listed or rounded):
            frame[field.name] = pd.Series(stored[field.name].to_pylist(), frame.index, dtype=object)
    return frame


def parts(file: Path, key: str) -> Iterator[pa.Table]:
    """Yield the table in parts of some thousand rows, all of one schema: text as text, other values as they are.

    What no type holds is `AS_JSON`. UserError, which says it of `key`, where it cannot be read, if need be after some
    parts.
    """
    suffix = file.suffix.lower()
    with _reading(file, key):
        found = _of_parquet(file) if suffix in _PARQUET else _of_lines(file) if suffix in _LINES else _of_text(file)
        for part in found:
            yield part.rename_columns(_names(part.column_names, file, key))


def _names(names: Sequence[str], file: Path, key: str) -> list[str]:
    """Return the names of columns without blanks around them, none of them twice."""
    bare = [name.strip() for name in names]
    if twice := [name for name, count in Counter(bare).items() if count > 1]:
        raise user_error(key, file, f"one column of each name, not several called {some(twice)}")
    return bare


@contextmanager
def _reading(file: Path, key: str) -> Iterator[None]:
    """Turn what goes wrong in the block into a `UserError`."""
    import pandas as pd

    if file.suffix.lower() not in SUFFIXES:
        raise user_error(key, file, "a table: .csv, .tsv, .parquet or .jsonl")
    try:
        with warnings.catch_warnings(action="error", category=pd.errors.ParserWarning):  # it drops what is too much
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
    """Return how a text is read: every cell as it stands there."""
    encoding = _encoding(file)
    with file.open(encoding=encoding) as stream:
        head = stream.readline()
    told = _TOLD.fullmatch(head)
    often = max(",;\t|", key=_QUOTED.sub("", head).count)  # what stands most often between the names of columns
    separator = told[1] if told else _SEPARATORS.get(file.suffix.lower(), often)
    how = {"sep": separator, "encoding": encoding, "skiprows": 1 if told else 0}
    return {**how, "dtype": str, "na_filter": False, "index_col": False}


def _encoding(file: Path) -> str:
    """Return UTF-8, with the mark that spreadsheets put before it or not, or UTF-16 where its mark says so."""
    with file.open("rb") as stream:
        return "utf-16" if stream.read(2) in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"


def _without_empty(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows in which anything stands: spreadsheets write those below, too, that were in use once."""
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
    """Yield the rows of JSON lines, gone through twice: what type a column has, its last row may say."""
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
    """Return the type of a column that has `values`, too; None where no one type holds them, or they have keys."""
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
    """Return what a line says; ValueError, with its number, for one that is no object of JSON."""
    try:
        row = parsed(line)
    except ValueError as error:
        raise ValueError(f"line {number:,}: {error}") from None
    if not isinstance(row, dict):
        raise ValueError(f"line {number:,} is no object")
    return row
