"""Write splits to a file, a row per image, with which later runs use the same splits.

Images in files become a table that `data=table` reads; images of the hub and in shards are listed by their names (see
`split_names`).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from frostline.core.config import DataConfig
from frostline.core.errors import UserError, user_error
from frostline.core.labels import class_names, multi_label
from frostline.data import split_names, tables
from frostline.data.label_columns import Labels
from frostline.data.layouts import SPLITS
from frostline.data.names import some
from frostline.data.splitting import Selection


@dataclass(frozen=True)
class SplitTable:
    """A written table of splits."""

    file: Path
    counts: Mapping[str, int]
    """Number of images, by split."""
    options: dict[str, object]
    """Config keys, with values, by which a run uses these splits."""


@dataclass(frozen=True)
class _Row:
    file: Path
    labels: Labels
    split: str
    group: int | None
    weight: float | None


def write(file: Path, parts: Mapping[str, Selection], config: DataConfig) -> SplitTable:
    """Write the split of each image of the data of `config` to `file`; UserError if names cannot represent it."""
    if config.source in ("hub", "shards"):
        split_names.write(file, parts)
        given = {key: value for key, value in config.options.items() if value is not None} | {"splits": str(file)}
        keys: dict[str, object] = {"data": config.name, "data.root": config.root}
        keys |= {f"data.options.{key}": value for key, value in given.items()} | _missing(parts)
    else:
        keys = _write_table(file, parts, config.name)
    return SplitTable(file, {name: len(part.ids) for name, part in parts.items()}, keys)


def _write_table(file: Path, parts: Mapping[str, Selection], source: str) -> dict[str, object]:
    """Write path, label and split of every image, and its weight and group number if it has them.

    Images are in the order of their source, that of train first, so that each keeps its index. Paths are relative to
    the folder of the table if all images are below it, else to their lowest common folder. Returns the config keys that
    a run needs. UserError for a `source` whose images have no files, and for names that do not survive a round trip.
    """
    if odd := [part for part in parts.values() if part.source.files is None]:
        expected = f"a data set of image files; {source} has none, and data.split_seed alone decides its splits"
        raise user_error("--write-splits", file, expected if len(odd) == len(parts) else f"{expected} of some")
    rows = list(_rows(parts))
    root = _root(file, [row.file for row in rows])
    more = [name for name in ("group", "weight") if any(getattr(row, name) is not None for row in rows)]
    lines: list[list[object]] = [["path", "label", "split", *more]]
    for row in rows:
        place, label = os.path.relpath(row.file, root), split_names.SEPARATOR.join(row.labels)
        lines.append([place, label, row.split, *(getattr(row, name) for name in more)])
    split_names.write_rows(file, lines, "files")
    own = Path(os.path.abspath(file.parent))  # noqa: PTH100 - resolve() would follow links
    options = _options(parts)
    _check(file, rows, {"root": None if root == own else str(root), **options})
    keys = {"data": "table", "data.root": str(file), **({} if root == own else {"data.options.root": str(root)})}
    return keys | _missing(parts) | {f"data.options.{key}": value for key, value in options.items()}


def _rows(parts: Mapping[str, Selection]) -> Iterator[_Row]:
    for source, number, name in split_names.in_order(parts):
        assert source.files is not None
        group = None if source.groups is None else int(source.groups[number])
        weight = None if source.weights is None else float(source.weights[number])
        yield _Row(source.files[number], class_names(source.labels[number], source.classes), name, group, weight)


def _root(file: Path, images: Sequence[Path]) -> Path:
    """Return the folder to which paths are relative."""
    top = os.path.commonpath({os.path.abspath(image.parent) for image in images})  # noqa: PTH100
    own = os.path.abspath(file.parent)  # noqa: PTH100
    return Path(own if os.path.commonpath([top, own]) == own else top)


def _options(parts: Mapping[str, Selection]) -> dict[str, str]:
    """Return the `data.options` with which the table is read."""
    source = parts["train"].source
    several = {"separator": split_names.SEPARATOR} if multi_label(source.labels) else {}
    grouped = {"group": "group"} if any(part.source.groups is not None for part in parts.values()) else {}
    return several | grouped | ({"weight": "weight"} if source.weights is not None else {})


def _missing(parts: Mapping[str, Selection]) -> dict[str, object]:
    """Return the key that allows splits to lack classes, if some do."""
    first, *others = [(part.counts > 0).tolist() for part in parts.values()]
    return {"data.missing_classes": "ok"} if any(other != first for other in others) else {}


def _plain(folder: Path) -> Path:
    """Return a folder's path without `..`, as in a table, if that is the same folder despite links; else unchanged."""
    plain = os.path.abspath(folder)  # noqa: PTH100 - resolve() would follow links
    return Path(plain) if os.path.realpath(plain) == os.path.realpath(folder) else folder


def _check(file: Path, rows: Sequence[_Row], options: Mapping[str, object]) -> None:
    """Raise `UserError`, and remove the file, if reading the table does not give what was written."""
    try:
        found = tables.read(file.absolute(), options).splits
    except UserError as error:
        file.unlink()
        raise UserError(f"--write-splits={file}: cannot be read back ({error})") from None
    plain = {folder: _plain(folder) for folder in {row.file.parent for row in rows}}
    for name in SPLITS:
        mine = [(plain[row.file.parent] / row.file.name, row.labels) for row in rows if row.split == name]
        back = list(zip(found[name].files, found[name].labels, strict=True)) if name in found else []
        if mine != back:
            file.unlink()
            odd = [f"{path} ({' + '.join(labels)})" for path, labels in mine if (path, labels) not in set(back)]
            expected = f"names of files and classes that can be read back from a table, not {some(odd)}"
            raise user_error("--write-splits", file, expected)
