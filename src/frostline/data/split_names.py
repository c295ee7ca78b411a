"""Write and read a file of splits by image names, for images of the hub and in shards, which have no files.

The file has a row for every image of the data set, with its label, so that a changed data set is noticed.
"""

from __future__ import annotations

import csv
import io
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from frostline.core import files
from frostline.core.errors import user_error
from frostline.core.labels import class_names
from frostline.data import table_columns, table_files
from frostline.data.layouts import SPLITS
from frostline.data.names import some

if TYPE_CHECKING:
    from frostline.data.source import Source
    from frostline.data.splitting import Selection

KEY = "data.options.splits"
_COLUMNS = ("image", "label", "split")
SEPARATOR = "|"
"""Text between the labels of an image."""


def write(file: Path, parts: Mapping[str, Selection]) -> None:
    """Write name, label and split of every image; UserError if names are not unique."""
    rows = [(source.name(number), _label(source, number), split) for source, number, split in in_order(parts)]
    if twice := [name for name, count in Counter(name for name, _, _ in rows).items() if count > 1]:
        expected = f"images with unique names, but {some(twice)} are there twice"
        raise user_error("--write-splits", file, expected)
    write_rows(file, [_COLUMNS, *rows], "images")
    back = _read(file, "--write-splits")
    if odd := [name for name, *said in rows if back.get(name) != tuple(said)]:
        file.unlink()
        expected = f"names of images and classes that can be read back from a table, not {some(odd)}"
        raise user_error("--write-splits", file, expected)


def write_rows(file: Path, rows: Iterable[Sequence[object]], what: str) -> None:
    """Write rows as CSV; UserError if that fails, or if a name of `what` or of a class is not UTF-8.

    An existing file with other content is not overwritten: it may hold labels, or the splits of other runs.
    """
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    try:
        if os.path.exists(file) and file.read_bytes() != text.getvalue().encode():
            raise user_error("--write-splits", file, "a new file, as this one has other content; remove it first")
        files.write(file, text.getvalue())
    except UnicodeError:
        raise user_error("--write-splits", file, f"{what} and classes whose names are UTF-8 text") from None
    except OSError as error:
        raise user_error("--write-splits", file, f"a file that can be written ({error.strerror})") from None


def in_order(parts: Mapping[str, Selection]) -> Iterator[tuple[Source, int, str]]:
    """Yield source, index and split of every image, in the order of each source, the source of train first."""
    for source in {id(parts[name].source): parts[name].source for name in SPLITS}.values():
        own = [(int(number), name) for name, part in parts.items() if part.source is source for number in part.ids]
        yield from ((source, number, name) for number, name in sorted(own))


def applied(sources: Mapping[str, Source], file: Path) -> dict[str, Source]:
    """Return the splits of a data set with `train` divided according to `file`; its own val and test stay.

    Raises `UserError` unless the file has exactly the images of the data set, with the same labels.
    """
    said, train = _read(file, KEY), sources["train"]
    _compare(file, said, sources)
    split_of = [said[train.name(number)][1] for number in range(len(train.labels))]
    ids = {split: [number for number, own in enumerate(split_of) if own == split] for split in SPLITS}
    if not ids["train"]:
        raise user_error(KEY, file, "images of train")
    return {**sources, "train": replace(train, splits={split: torch.tensor(own) for split, own in ids.items() if own})}


def _compare(file: Path, said: Mapping[str, tuple[str, str]], sources: Mapping[str, Source]) -> None:
    """Raise `UserError` unless the file has exactly the images of `sources`, with their labels and fixed splits."""
    there = {
        source.name(number): (_label(source, number), role)
        for role, source in sources.items()
        for number in range(len(source.labels))
    }
    if strange := [name for name in said if name not in there]:
        raise user_error(KEY, file, f"images that the data set has, not {some(strange)}")
    if missing := [name for name in there if name not in said]:
        raise user_error(KEY, file, f"a row for every image of the data set, but there is none for {some(missing)}")
    if odd := [name for name, (label, _) in there.items() if said[name][0] != label]:
        raise user_error(KEY, file, f"the labels of the data set, not others for {some(odd)}")
    stays = [role for role in sources if role != "train"]
    moved = [name for name, (_, role) in there.items() if role != said[name][1] and {role, said[name][1]} & {*stays}]
    if moved:
        raise user_error(KEY, file, f"{' and '.join(stays)} as in the data set, not others for {some(moved)}")


def _label(source: Source, number: int) -> str:
    return SEPARATOR.join(class_names(source.labels[number], source.classes))


def _read(file: Path, key: str) -> dict[str, tuple[str, str]]:
    """Return label and split of each image, by its name."""
    if not os.path.isfile(file):
        raise user_error(key, file, "a file that exists, as `frostline data ... --write-splits` writes it")
    frame = table_files.whole(file, key)
    if missing := [name for name in _COLUMNS if name not in frame.columns]:
        raise user_error(key, file, f"columns {', '.join(_COLUMNS)}, but there is no {some(missing)}")
    names, labels, splits = (table_columns.texts(frame[name], name, file) for name in _COLUMNS)
    if odd := sorted(set(splits) - set(SPLITS)):
        raise user_error(key, file, f"a column split of train, val and test, not of {some(odd)}")
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise user_error(key, file, f"one row for each image, not several for {some(twice)}")
    return dict(zip(names, zip(labels, splits, strict=True), strict=True))
