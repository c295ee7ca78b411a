"""Pictures of a data set of the hub, with their labels and groups: the rows of its Arrow tables.

The bytes of a picture are read as they stand there, so that one decoder sees what every other source gives.
"""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image
from torch import Tensor

from frostline.core.errors import user_error
from frostline.core.files import expanded, facts
from frostline.data import label_columns
from frostline.data.duplicates import first_alike
from frostline.data.findings import Finding, first_few
from frostline.data.hub_columns import Columns, class_names
from frostline.data.label_columns import Cell, Labels
from frostline.data.names import counted, printable
from frostline.data.open_image import open_bytes, open_image
from frostline.store import hashing

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class Pictures:
    """The rows of one split that have a picture and a label."""

    split: str
    """As the data set calls it."""
    content: pa.ChunkedArray | None
    """The bytes of each row's picture, null where they are in a file; None where all are."""
    paths: pa.ChunkedArray | None
    """The path of each row's picture, which is what it is called where the bytes are there; None without paths."""
    folder: Path
    """What paths are relative to."""
    files: tuple[tuple[object, ...], ...]
    """Name, size and times of each file that the rows lie in."""
    rows: tuple[int, ...]
    labels: tuple[Labels, ...]
    """Of each of the rows."""
    groups: tuple[str, ...] | None
    """Of each of the rows, empty where it belongs to nobody; None where none are asked for."""

    def read(self, index: int) -> Image.Image:
        """Open the i-th picture, not decoded yet; raises anything where it is missing or broken."""
        content, path = self._content(index), self._path(index)
        return open_image(Path(path)) if content is None else open_bytes(content, path)

    def name(self, index: int) -> str:
        """Return where the i-th picture is: split and row, and what its file is called."""
        called = Path(self._path(index)).name
        return printable(f"{self.split}[{self.rows[index]}]" + (f" {called}" if called else ""))

    def identity(self) -> str:
        """Return the sha256 (hex) that stands for all pictures.

        The fingerprint that the library gives is another one whenever the same data is saved, and the same where a
        saved file is overwritten.
        """
        outside = set(self.rows) if self.content is None else set(self.rows) & set(_nulls(self.content))
        known = [self.files, self.rows, [(path, *facts(path)) for path in map(self._path_in, sorted(outside))]]
        return hashing.of_facts(known)

    def twins(self) -> Tensor:
        """Return `(N,)` int64: for each picture the first one of the same bytes."""
        from pyarrow import compute

        sizes = None if self.content is None else compute.binary_length(self.content).to_pylist()

        def size(index: int) -> Hashable:
            known = sizes[self.rows[index]] if sizes is not None else None
            return Path(self._path(index)).stat().st_size if known is None else known

        def whole(index: int) -> Hashable:
            content = self._content(index)
            return hashlib.sha256(Path(self._path(index)).read_bytes() if content is None else content).digest()

        return first_alike(len(self.rows), size, whole)

    def _content(self, index: int) -> bytes | None:
        return None if self.content is None else self.content[self.rows[index]].as_py()

    def _path(self, index: int) -> str:
        return self._path_in(self.rows[index])

    def _path_in(self, row: int) -> str:
        path = None if self.paths is None else self.paths[row].as_py()
        return str(self.folder / path) if path else ""


def pictures_of(
    root: str, split: str, rows: Any, columns: Columns, findings: list[Finding], *, several: bool
) -> Pictures:
    """Return the rows of a split with a picture and a label; `findings` gets what is told of the others."""
    table = rows.with_format("arrow")[:]  # a view of the files, in the order that the rows have
    content, paths = _content_and_paths(table.column(columns.image))
    cells = {
        name: _cells(root, split, table.column(name).to_pylist(), class_names(rows, name)) for name in columns.labels
    }
    labels = label_columns.of_columns(cells, separator=columns.separator, several=several)
    nowhere = set(range(len(labels))).intersection(*(_nulls(one) for one in (content, paths) if one is not None))
    known = [row not in nowhere for row in range(len(labels))]
    for what, lost in (
        ("a picture", [row for row, there in enumerate(known) if not there]),
        ("a label", [row for row, own in enumerate(labels) if own is None and known[row]]),
    ):
        if lost:
            named = tuple(f"{split}[{row}]" for row in lost)
            left_out = counted(len(lost), f"row without {what} is left out", f"rows without {what} are left out")
            told = f"{left_out}: {first_few(named)}"
            findings.append(Finding(told, True, named))
    kept = {row: own for row, own in enumerate(labels) if own is not None and known[row]}
    groups = None
    if columns.group is not None:
        every = [_text(value) for value in table.column(columns.group).to_pylist()]
        groups = tuple(every[row] for row in kept)
    files = tuple((file["filename"], *facts(file["filename"])) for file in rows.cache_files)
    folder = expanded(root).absolute()
    return Pictures(split, content, paths, folder, files, tuple(kept), tuple(kept.values()), groups)


def _cells(root: str, split: str, values: Sequence[Any], names: Sequence[str]) -> list[Cell]:
    """Return what stands in each row of a column as text; nothing where it is none, which -1 says of named classes."""

    def text(row: int, value: Any) -> str:
        if not names or value is None or value == -1:
            return "" if names else _text(value)
        if not 0 <= value < len(names):
            expected = f"labels below {len(names)}, the number of names of classes, and {split}[{row}] has {value}"
            raise user_error("data.root", root, expected)
        return names[value]

    return [
        ([text(row, one) for one in value] if value != [-1] else None) if isinstance(value, list) else text(row, value)
        for row, value in enumerate(values)
    ]


def _content_and_paths(column: pa.ChunkedArray) -> tuple[pa.ChunkedArray | None, pa.ChunkedArray | None]:
    """Return the bytes and the paths that a column of pictures holds, as far as it does."""
    import pyarrow as pa
    from pyarrow import compute

    if pa.types.is_struct(column.type):
        return compute.struct_field(column, "bytes"), compute.struct_field(column, "path")
    return (None, column) if "string" in str(column.type) else (column, None)


def _text(value: object) -> str:
    """Return a value as text, a whole number without decimals, nothing as nothing."""
    if isinstance(value, float):
        if isnan(value):
            return ""
        value = int(value) if value.is_integer() else value
    return "" if value is None else str(value).strip()


def _nulls(column: pa.ChunkedArray) -> list[int]:
    """Return the rows in which there is nothing."""
    from pyarrow import compute

    return compute.indices_nonzero(compute.is_null(column)).to_pylist()
