"""Splits in a file that says them of pictures by their names: of rows of the hub, of samples in shards.

Such pictures have no files that a table could name. The file has a row for every picture of the data set, with its
label, so that a data set that is another one by now is noticed.
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
_COLUMNS = ("picture", "label", "split")
SEPARATOR = "|"
"""Between the labels of a picture, for people and to compare."""


def write(file: Path, parts: Mapping[str, Selection]) -> None:
    """Write name, label and split of every picture; UserError where names do not tell pictures apart."""
    rows = [(source.name(number), _label(source, number), split) for source, number, split in in_order(parts)]
    if twice := [name for name, count in Counter(name for name, _, _ in rows).items() if count > 1]:
        expected = f"pictures that can be told apart by their names, but {some(twice)} are there twice"
        raise user_error("--write-splits", file, expected)
    write_rows(file, [_COLUMNS, *rows], "pictures")
    back = _read(file, "--write-splits")
    if odd := [name for name, *said in rows if back.get(name) != tuple(said)]:
        file.unlink()
        expected = f"names of pictures and classes that a table gives back, not {some(odd)}"
        raise user_error("--write-splits", file, expected)


def write_rows(file: Path, rows: Iterable[Sequence[object]], what: str) -> None:
    """Write rows as CSV; UserError where that cannot be, as where a name of `what` or of a class is no text.

    A file that says anything else is somebody's labels, or splits that a run was told: it stays.
    """
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    try:
        if os.path.exists(file) and file.read_bytes() != text.getvalue().encode():
            raise user_error("--write-splits", file, "a new file, as this one says something else; remove it first")
        files.write(file, text.getvalue())
    except UnicodeError:
        raise user_error("--write-splits", file, f"{what} and classes whose names are text in UTF-8") from None
    except OSError as error:
        raise user_error("--write-splits", file, f"a file that can be written ({error.strerror})") from None


def in_order(parts: Mapping[str, Selection]) -> Iterator[tuple[Source, int, str]]:
    """Yield every picture, by its number in its source, with its split: as they come in each source, train's first."""
    for source in {id(parts[name].source): parts[name].source for name in SPLITS}.values():
        own = [(int(number), name) for name, part in parts.items() if part.source is source for number in part.ids]
        yield from ((source, number, name) for number, name in sorted(own))


def applied(sources: Mapping[str, Source], file: Path) -> dict[str, Source]:
    """Return the splits of a data set with that of `train` divided as `file` says; those of its own stay.

    Raises `UserError` where the file is not about these pictures, every one of them, with the labels that they have.
    """
    said, train = _read(file, KEY), sources["train"]
    _compare(file, said, sources)
    split_of = [said[train.name(number)][1] for number in range(len(train.labels))]
    ids = {split: [number for number, own in enumerate(split_of) if own == split] for split in SPLITS}
    if not ids["train"]:
        raise user_error(KEY, file, "pictures of train")
    return {**sources, "train": replace(train, splits={split: torch.tensor(own) for split, own in ids.items() if own})}


def _compare(file: Path, said: Mapping[str, tuple[str, str]], sources: Mapping[str, Source]) -> None:
    """Raise `UserError` where a file does not say the label, and a split that can be, of each picture alone."""
    there = {
        source.name(number): (_label(source, number), role)
        for role, source in sources.items()
        for number in range(len(source.labels))
    }
    if strange := [name for name in said if name not in there]:
        raise user_error(KEY, file, f"pictures that the data set has, not {some(strange)}")
    if missing := [name for name in there if name not in said]:
        raise user_error(KEY, file, f"a row for every picture of the data set, and there is none for {some(missing)}")
    if odd := [name for name, (label, _) in there.items() if said[name][0] != label]:
        raise user_error(KEY, file, f"labels as the data set has them, not others for {some(odd)}")
    stays = [role for role in sources if role != "train"]
    moved = [name for name, (_, role) in there.items() if role != said[name][1] and {role, said[name][1]} & {*stays}]
    if moved:
        raise user_error(KEY, file, f"{' and '.join(stays)} as the data set has them, not others for {some(moved)}")


def _label(source: Source, number: int) -> str:
    return SEPARATOR.join(class_names(source.labels[number], source.classes))


def _read(file: Path, key: str) -> dict[str, tuple[str, str]]:
    """Return label and split of each picture by its name."""
    if not os.path.isfile(file):
        raise user_error(key, file, "a file that exists, as `frostline data ... --write-splits` leaves it")
    frame = table_files.whole(file, key)
    if missing := [name for name in _COLUMNS if name not in frame.columns]:
        raise user_error(key, file, f"columns {', '.join(_COLUMNS)}, and there is no {some(missing)}")
    names, labels, splits = (table_columns.texts(frame[name], name, file) for name in _COLUMNS)
    if odd := sorted(set(splits) - set(SPLITS)):
        raise user_error(key, file, f"a column split of train, val and test, not of {some(odd)}")
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise user_error(key, file, f"one row for each picture, not several for {some(twice)}")
    return dict(zip(names, zip(labels, splits, strict=True), strict=True))
