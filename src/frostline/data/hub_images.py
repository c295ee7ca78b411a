"""Images of a Hugging Face data set, with labels and groups, from the rows of its Arrow tables.

The encoded bytes of an image are read unchanged, so that images of all sources go through the same decoder.
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
from frostline.core.files import absolute, facts
from frostline.data import duplicates, label_columns
from frostline.data.findings import Finding, of_names
from frostline.data.hub_columns import HubColumns, class_names
from frostline.data.label_columns import Cell, Labels
from frostline.data.names import printable
from frostline.data.open_image import open_bytes, open_image
from frostline.store import hashing

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class HubImages:
    """The rows of a split that have an image and a label."""

    split: str
    """Name of the split in the data set."""
    content: pa.ChunkedArray | None
    """Bytes of each row's image, null if it is in a file; None if all are in files."""
    paths: pa.ChunkedArray | None
    """Path of each row's image, only a name if the bytes are in the table; None without paths."""
    folder: Path
    """Folder to which paths are relative."""
    files: tuple[tuple[object, ...], ...]
    """Name, size and times of each file of the table."""
    rows: tuple[int, ...]
    labels: tuple[Labels, ...]
    """Labels of each of `rows`."""
    groups: tuple[str, ...] | None
    """Group of each of `rows`, empty for none; None if groups are not read."""

    def read(self, index: int) -> Image.Image:
        """Open the i-th image without decoding it; may raise any exception if it is missing or broken."""
        content, path = self._content(index), self._path(index)
        return open_image(Path(path)) if content is None else open_bytes(content, path)

    def name(self, index: int) -> str:
        """Return a name of the i-th image: split and row, and the name of its file."""
        called = Path(self._path(index)).name
        return printable(f"{self.split}[{self.rows[index]}]" + (f" {called}" if called else ""))

    def identity(self) -> str:
        """Return the sha256 (hex) that identifies all images.

        The library's own fingerprint does not serve: it changes whenever the same data is saved, and does not change
        when a saved file is overwritten.
        """
        outside = set(self.rows) if self.content is None else set(self.rows) & set(_nulls(self.content))
        known = [self.files, self.rows, [(path, *facts(path)) for path in map(self._path_in, sorted(outside))]]
        return hashing.of_facts(known)

    def first_alike(self) -> Tensor:
        """Return `(N,)` int64: for each image the index of the first one with the same bytes."""
        from pyarrow import compute

        sizes = None if self.content is None else compute.binary_length(self.content).to_pylist()

        def size(index: int) -> Hashable:
            known = sizes[self.rows[index]] if sizes is not None else None
            return Path(self._path(index)).stat().st_size if known is None else known

        def whole(index: int) -> Hashable:
            content = self._content(index)
            return hashlib.sha256(Path(self._path(index)).read_bytes() if content is None else content).digest()

        return duplicates.first_alike(range(len(self.rows)), size, whole)

    def _content(self, index: int) -> bytes | None:
        return None if self.content is None else self.content[self.rows[index]].as_py()

    def _path(self, index: int) -> str:
        return self._path_in(self.rows[index])

    def _path_in(self, row: int) -> str:
        path = None if self.paths is None else self.paths[row].as_py()
        return str(self.folder / path) if path else ""


def images_of(root: str, split: str, rows: Any, columns: HubColumns, findings: list[Finding]) -> HubImages:
    """Return the rows of a split with an image and a label; findings about the others are added to `findings`."""
    table = rows.with_format("arrow")[:]  # a view of the files, in the order of the rows
    content, paths = _content_and_paths(table.column(columns.image))
    cells = {
        name: _cells(root, split, table.column(name).to_pylist(), class_names(rows, name)) for name in columns.labels
    }
    labels = label_columns.of_columns(cells, columns.separator)
    nowhere = set(range(len(labels))).intersection(*(_nulls(one) for one in (content, paths) if one is not None))
    known = [row not in nowhere for row in range(len(labels))]
    for what, lost in (
        ("an image", [row for row, there in enumerate(known) if not there]),
        ("a label", [row for row, own in enumerate(labels) if own is None and known[row]]),
    ):
        if lost:
            named = tuple(f"{split}[{row}]" for row in lost)
            left_out = (f"row without {what} is left out", f"rows without {what} are left out")
            findings.append(of_names(named, *left_out))
    kept = {row: own for row, own in enumerate(labels) if own is not None and known[row]}
    groups = None
    if columns.group is not None:
        every = [_text(value) for value in table.column(columns.group).to_pylist()]
        groups = tuple(every[row] for row in kept)
    files = tuple((file["filename"], *facts(file["filename"])) for file in rows.cache_files)
    folder = absolute(root)
    return HubImages(split, content, paths, folder, files, tuple(kept), tuple(kept.values()), groups)


def _cells(root: str, split: str, values: Sequence[Any], names: Sequence[str]) -> list[Cell]:
    """Return the values of a column as text; empty or None for no label, which is -1 in a column of class labels."""

    def text(row: int, value: Any) -> str:
        if not names or value is None or value == -1:
            return "" if names else _text(value)
        if not 0 <= value < len(names):
            expected = f"labels below {len(names)}, the number of class names, but {split}[{row}] has {value}"
            raise user_error("data.root", root, expected)
        return names[value]

    return [
        ([text(row, one) for one in value] if value != [-1] else None) if isinstance(value, list) else text(row, value)
        for row, value in enumerate(values)
    ]


def _content_and_paths(column: pa.ChunkedArray) -> tuple[pa.ChunkedArray | None, pa.ChunkedArray | None]:
    """Return the bytes and the paths in a column of images, None for the one that it lacks."""
    import pyarrow as pa
    from pyarrow import compute

    if pa.types.is_struct(column.type):
        return compute.struct_field(column, "bytes"), compute.struct_field(column, "path")
    return (None, column) if "string" in str(column.type) else (column, None)


def _text(value: object) -> str:
    """Return a value as text: integers without decimals, null and NaN as an empty text."""
    if isinstance(value, float):
        if isnan(value):
            return ""
        value = int(value) if value.is_integer() else value
    return "" if value is None else str(value).strip()


def _nulls(column: pa.ChunkedArray) -> list[int]:
    """Return the indices of null rows."""
    from pyarrow import compute

    return compute.indices_nonzero(compute.is_null(column)).to_pylist()
