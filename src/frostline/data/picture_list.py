"""Pictures in their order, however many: what is known of each lies in a file, so that no memory grows with them."""

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

from frostline.core.errors import user_error
from frostline.core.files import expanded
from frostline.data import leftovers, remote_files, shard_index, shards, table_files, table_rows, tables
from frostline.data.decode_all import unseen
from frostline.data.image_formats import SUFFIXES
from frostline.data.listing import LeftOut, walk
from frostline.data.open_image import open_anywhere
from frostline.data.shard_headers import Wanted
from frostline.data.shard_index import Index
from frostline.store import hashing
from frostline.store.store import Store

FILE = pa.field("file", pa.binary())
"""What is carried along of pictures of no table: their names as the system has them."""
_PLACE = pa.field("\0place", pa.binary())
"""Where a picture lies; no column of a table is called so."""
_ROWS = 16_384  # that are written at once
_SHARDS = 4  # whose headers are known at once: each core is in one, or already in the next


@dataclass(frozen=True)
class PictureList:
    """Pictures to look at one after the other."""

    file: Path
    """Arrow's format: a row per picture."""
    read: Callable[[int, str], Image.Image]
    """Opens a picture, given its number and its place; raises anything where that is missing or broken."""
    named: str = FILE.name
    """The column that says which picture a row is of."""

    def __len__(self) -> int:
        return int(self._rows.num_rows)

    @cached_property
    def _rows(self) -> pa.Table:
        """All rows, mapped from the file: what is read of them the system may forget again."""
        return pa.ipc.open_file(pa.memory_map(str(self.file))).read_all()

    @cached_property
    def identity(self) -> str:
        """sha256 (hex) over all that is known of the pictures but what they show."""
        return hashing.of_file(self.file)

    @property
    def columns(self) -> list[str]:
        """The names of what is carried along: the columns of a table, else `file`."""
        return [name for name in self._rows.column_names if name != _PLACE.name] or [FILE.name]

    def place(self, row: int) -> str:
        """Return where the i-th picture lies."""
        return os.fsdecode(self._rows.column(_PLACE.name)[row].as_py())

    def open(self, row: int) -> Image.Image:
        """Open the i-th picture; raises what `read` raises."""
        return self.read(row, self.place(row))

    def carried(self, rows: range) -> pa.Table:
        """Return what is carried along of some pictures that follow each other; `FILE` where there is no table."""
        part = self._rows.slice(rows.start, len(rows))
        return part.rename_columns([FILE.name]) if part.num_columns == 1 else part.drop_columns([_PLACE.name])


def gather(
    file: Path,
    pictures: Sequence[Path | str],
    *,
    say: Callable[[str], None],
    more: Iterable[str] = (),
    path: str | None = None,
    root: str | None = None,
) -> PictureList:
    """Write into `file` which pictures are meant, and return them: of one table, of shards, or of files and folders.

    Of a table `path` names the column where it is not called as is common, and `root` the folder that it is relative
    to, else the table's own. `-` stands for `more`, a path per line. A picture may lie elsewhere, as `https://...`.
    What of a folder is left out is told to `say`. UserError for a table or shards beside others, a path of `pictures`
    that is not there, and a folder without pictures; other files that are not there are found out when their turn
    comes.
    """
    if "" in pictures:
        raise user_error("pictures", "", "a file or folder, and there is none")
    pictures = [_somewhere(str(one)) for one in pictures]
    tables_given, shards_given = sum(map(_is_table, pictures)), sum(map(_is_shards, pictures))
    if (tables_given and len(pictures) > 1) or shards_given not in (0, len(pictures)):
        raise user_error(
            "pictures", " ".join(map(str, pictures)), "one table alone, shards alone, or files and folders"
        )
    if tables_given:
        return _of_table(file, Path(pictures[0]), path, root)
    for key, value in (("path", path), ("root", root)):
        if value is not None:
            raise user_error(key, value, "to be given with a table of pictures")
    if shards_given:
        return _of_shards(file, [str(pattern) for pattern in pictures], say)
    places = chain.from_iterable(_below(name, more, say) for name in pictures)
    return _of_files(file, places)


def _somewhere(name: str) -> Path | str:
    """Return where a name leads: a URL, or a path of this machine."""
    return name if remote_files.is_elsewhere(name) else expanded(name)


def _is_table(name: Path | str) -> bool:
    path = Path(name)
    return path.suffix.lower() in table_files.SUFFIXES and os.path.isfile(path)


def _is_shards(name: Path | str) -> bool:
    return str(name).lower().endswith(shards.SUFFIX)


def _below(name: Path | str, more: Iterable[str], say: Callable[[str], None]) -> Iterator[Path | str]:
    """Yield the pictures that a name stands for, of `-` those that `more` names, of a folder all below it."""
    if str(name) == "-":
        named: Iterable[Path | str] = (_somewhere(path) for line in more if (path := line.rstrip("\r\n")))
    elif isinstance(name, str) or os.path.exists(name):
        named = [name]
    else:
        raise user_error("pictures", name, "a file or folder, and there is none")
    for one in named:
        yield from _in_folder(one, say) if isinstance(one, Path) and os.path.isdir(one) else [one]


def _in_folder(folder: Path, say: Callable[[str], None]) -> Iterator[Path]:
    left, none = LeftOut(), True
    for file in walk(folder, left):
        none = False
        yield file
    if told := leftovers.told(left.other):
        say(f"{folder}: {told}")
    if none:
        raise user_error("pictures", folder, f"a folder with pictures ({', '.join(SUFFIXES)})")


def _of_files(file: Path, places: Iterable[Path | str]) -> PictureList:
    schema, left = pa.schema([_PLACE]), iter(places)
    parts = iter(lambda: [os.fsencode(place) for place in islice(left, _ROWS)], [])
    return _written(file, (pa.table([part], schema) for part in parts), schema)


def _of_table(file: Path, table: Path, path: str | None, root: str | None) -> PictureList:
    parts = (part for part in table_files.parts(table, "pictures") if part.num_rows)
    if (first := next(parts, None)) is None:
        raise user_error("pictures", table, "a table with rows")
    column = tables.path_column(first.column_names, path)
    if table_files.AS_JSON in (first.schema.field(column).metadata or {}):
        raise user_error("path", column, "a column of texts")
    folder = tables.root_of(table, "root", root)

    def placed(part: pa.Table, before: int) -> pa.Table:
        try:
            texts = part.column(column).cast(pa.string()).to_pylist()
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            raise user_error("path", column, "a column of texts") from None
        if bad := [row for row, text in enumerate(texts, before + 1) if not (text or "").strip() or "\0" in text]:
            raise user_error("pictures", table, f"a path in every row, but there is none in row {bad[0]}")
        bare = map(str.strip, texts)
        found = (text if remote_files.is_elsewhere(text) else table_rows.normal(folder, text) for text in bare)
        places = [*map(os.fsencode, found)]
        return part.append_column(_PLACE, pa.array(places, _PLACE.type))

    def every() -> Iterator[pa.Table]:
        row = 0
        for part in chain([first], parts):
            yield placed(part, row)
            row += part.num_rows

    return replace(_written(file, every(), first.schema.append(_PLACE)), named=column)


def _of_shards(file: Path, patterns: Sequence[str], say: Callable[[str], None]) -> PictureList:
    """Return the pictures in WebDataset's shards, of which no more than a few are known at once."""
    found = [shard for pattern in patterns for shard in remote_files.find("pictures", pattern, shards.SUFFIX)]
    starts = [0]

    @lru_cache(_SHARDS)
    def known(number: int) -> Index:
        return shard_index.index("pictures", [found[number]], Wanted(), Store(None, budget=0, say=say), unseen)

    def parts() -> Iterator[pa.Table]:
        for number in range(len(found)):
            own = known(number)
            starts.append(starts[-1] + len(own))
            yield pa.table([[os.fsencode(own.name(row)) for row in range(len(own))]], pa.schema([_PLACE]))

    def read(row: int, place: str) -> Image.Image:
        number = bisect_right(starts, row) - 1
        return known(number).open(row - starts[number])

    return replace(_written(file, parts(), pa.schema([_PLACE])), read=read)


def _written(file: Path, parts: Iterable[pa.Table], schema: pa.Schema) -> PictureList:
    with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
        for part in parts:
            writer.write_table(part)
    return PictureList(file, lambda row, place: open_anywhere(place))
