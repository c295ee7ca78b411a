"""An ordered list of images of any length, for prediction, kept in an Arrow file so that memory stays constant."""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from itertools import chain, islice
from pathlib import Path

import pyarrow as pa
from PIL import Image

from frostline.core import files
from frostline.core.errors import user_error
from frostline.core.files import expanded
from frostline.data import leftovers, remote_files, shard_index, shard_splits, table_files, table_rows, tables
from frostline.data.decode_all import no_progress_bar
from frostline.data.image_formats import SUFFIXES
from frostline.data.listing import LeftOut, walk
from frostline.data.open_image import open_anywhere
from frostline.data.shard_headers import Wanted
from frostline.data.shard_index import Index
from frostline.store import hashing
from frostline.store.store import Store

FILE = pa.field("file", pa.binary())
"""The column for images that are not from a table: their file names, as bytes of the file system."""
_PLACE = pa.field("\0place", pa.binary())
"""Path or URL of an image; no column of a table has this name."""
_ROWS = 16_384  # rows written at once
_SHARDS = 4  # shards whose index is in memory at once: each core reads one, or already the next


@dataclass(frozen=True)
class ImageList:
    """A list of images, with the columns of the table that they come from, if any."""

    file: Path
    """File in Arrow's format, a row per image."""
    read: Callable[[int, str], Image.Image]
    """Opens an image, given its row and its place; may raise any exception if it is missing or broken."""
    named: str = FILE.name
    """The column that names the image of a row."""

    def __len__(self) -> int:
        return int(self._rows.num_rows)

    @cached_property
    def _rows(self) -> pa.Table:
        """All rows, memory-mapped, so that the system can drop their pages again."""
        return pa.ipc.open_file(pa.memory_map(str(self.file))).read_all()

    @cached_property
    def identity(self) -> str:
        """sha256 (hex) over the list: places and table columns, not the content of images."""
        return hashing.of_file(self.file)

    @property
    def columns(self) -> list[str]:
        """Names of the carried columns: those of the table, else `file`."""
        return [name for name in self._rows.column_names if name != _PLACE.name] or [FILE.name]

    def place(self, row: int) -> str:
        """Return path or URL of the image in a row."""
        return os.fsdecode(self._rows.column(_PLACE.name)[row].as_py())

    def open(self, row: int) -> Image.Image:
        """Open the image in a row; raises what `read` raises."""
        return self.read(row, self.place(row))

    def carried(self, rows: range) -> pa.Table:
        """Return the carried columns of consecutive rows; `FILE` if there is no table."""
        part = self._rows.slice(rows.start, len(rows))
        return part.rename_columns([FILE.name]) if part.num_columns == 1 else part.drop_columns([_PLACE.name])


def gather(
    file: Path,
    images: Sequence[Path | str],
    *,
    say: Callable[[str], None],
    more: Iterable[str] = (),
    path: str | None = None,
    root: str | None = None,
) -> ImageList:
    """Write the list of all images of `images`, a table, shards, or files and folders, into `file` and return it.

    For a table, `path` names its column of paths, None for a common name, and `root` the folder to which paths are
    relative, None for the table's own. `-` stands for `more`, a path per line. Images may be URLs, e.g. `https://...`.
    Files of a folder that are left out are reported by `say`. UserError for a table or shards beside others, a path in
    `images` that does not exist, and a folder without images; other missing files are noticed when they are opened.
    """
    if "" in images:
        raise user_error("images", "", "a file or folder, and there is none")
    images = [_somewhere(str(one)) for one in images]
    tables_given, shards_given = sum(map(_is_table, images)), sum(map(_is_shards, images))
    if (tables_given and len(images) > 1) or shards_given not in (0, len(images)):
        raise user_error("images", " ".join(map(str, images)), "one table alone, shards alone, or files and folders")
    if tables_given:
        return _of_table(file, Path(images[0]), path, root)
    for key, value in (("path", path), ("root", root)):
        if value is not None:
            raise user_error(key, value, "to be given with a table of images")
    if shards_given:
        return _of_shards(file, [str(pattern) for pattern in images], say)
    places = chain.from_iterable(_below(name, more, say, images) for name in images)
    return _of_files(file, places)


def _somewhere(name: str) -> Path | str:
    """Return a URL as text, or a local path."""
    return name if remote_files.is_elsewhere(name) else expanded(name)


def _is_table(name: Path | str) -> bool:
    path = Path(name)
    return path.suffix.lower() in table_files.SUFFIXES and os.path.isfile(path)


def _is_shards(name: Path | str) -> bool:
    return str(name).lower().endswith(shard_splits.SUFFIX)


def _below(
    name: Path | str, more: Iterable[str], say: Callable[[str], None], images: Sequence[Path | str]
) -> Iterator[Path | str]:
    """Yield the images of a name of `images`: for `-` those that `more` names, for a folder all below it."""
    if str(name) == "-":
        named: Iterable[Path | str] = (_somewhere(path) for line in more if (path := line.rstrip("\r\n")))
    elif isinstance(name, str) or os.path.exists(name):
        named = [name]
    else:
        whole = " ".join(map(str, images))  # as a shell cuts a name with blanks
        quoted = f"; a name with blanks is quoted: '{whole}'" if os.path.exists(whole) else ""
        raise user_error("images", name, f"a file or folder, and there is none{quoted}")
    for one in named:
        yield from _in_folder(one, say) if isinstance(one, Path) and os.path.isdir(one) else [one]


def _in_folder(folder: Path, say: Callable[[str], None]) -> Iterator[Path]:
    left, none = LeftOut(), True
    for file in walk(folder, left):
        none = False
        yield file
    if told := leftovers.describe(left.other):
        say(f"{folder}: {told}")
    if none:
        raise user_error("images", folder, f"a folder with images ({', '.join(SUFFIXES)})")


def _of_files(file: Path, places: Iterable[Path | str]) -> ImageList:
    schema, left = pa.schema([_PLACE]), iter(places)
    parts = iter(lambda: [os.fsencode(place) for place in islice(left, _ROWS)], [])
    return _written(file, (pa.table([part], schema) for part in parts), schema)


def _of_table(file: Path, table: Path, path: str | None, root: str | None) -> ImageList:
    parts = (part for part in table_files.parts(table, "images") if part.num_rows)
    if (first := next(parts, None)) is None:
        raise user_error("images", table, "a table with rows")
    column = tables.path_column(first.column_names, path)
    if table_files.AS_JSON in (first.schema.field(column).metadata or {}):
        raise user_error("path", column, "a column of texts")
    folder = tables.root_of(table, "root", root)
    given = [str(text or "").strip() for text in first.column(column).to_pylist()]
    spelling = table_rows.spelling_of(folder, given)

    def placed(part: pa.Table, before: int) -> pa.Table:
        try:
            texts = part.column(column).cast(pa.string()).to_pylist()
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            raise user_error("path", column, "a column of texts") from None
        if bad := [row for row, text in enumerate(texts, before + 1) if not (text or "").strip() or "\0" in text]:
            raise user_error("images", table, f"a path in every row, but there is none in row {bad[0]}")
        bare = map(str.strip, texts)
        found = (
            text if remote_files.is_elsewhere(text) else table_rows.normal(folder, spelling.of(text)) for text in bare
        )
        places = [*map(os.fsencode, found)]
        return part.append_column(_PLACE, pa.array(places, _PLACE.type))

    def every() -> Iterator[pa.Table]:
        row = 0
        for part in chain([first], parts):
            yield placed(part, row)
            row += part.num_rows

    return replace(_written(file, every(), first.schema.append(_PLACE)), named=column)


def _of_shards(file: Path, patterns: Sequence[str], say: Callable[[str], None]) -> ImageList:
    """Return the images in WebDataset shards, with the index of only a few shards in memory at once."""
    found = [shard for pattern in patterns for shard in remote_files.find("images", pattern, shard_splits.SUFFIX)]
    starts = [0]

    @lru_cache(_SHARDS)
    def known(number: int) -> Index:
        return shard_index.index("images", [found[number]], Wanted(), Store(None, budget=0, say=say), no_progress_bar)

    def parts() -> Iterator[pa.Table]:
        for number in range(len(found)):
            own = known(number)
            starts.append(starts[-1] + len(own))
            yield pa.table([[os.fsencode(own.name(row)) for row in range(len(own))]], pa.schema([_PLACE]))

    def read(row: int, place: str) -> Image.Image:
        number = bisect_right(starts, row) - 1
        return known(number).open(row - starts[number])

    return replace(_written(file, parts(), pa.schema([_PLACE])), read=read)


def _written(file: Path, parts: Iterable[pa.Table], schema: pa.Schema) -> ImageList:
    with files.naming(file), pa.OSFile(str(file), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
        for part in parts:
            writer.write_table(part)
    return ImageList(file, lambda row, place: open_anywhere(place))
