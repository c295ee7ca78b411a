"""The names of classes that stand beside WebDataset's shards, by which the numbers in these become names."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress

from frostline.core.errors import user_error
from frostline.data import remote_files
from frostline.data.label_columns import Labels
from frostline.data.remote_files import RemoteFile
from frostline.data.shard_index import Index

_CLASS_FILES = ("classes.txt", "classnames.txt")


def find(root: str, given: object, train: Sequence[RemoteFile]) -> tuple[str, ...]:
    """Return the names that numbers stand for: given, or in a file that is called as is common beside the shards.

    Raises `UserError` where a file that is `given` cannot be read.
    """
    if isinstance(given, Sequence) and not isinstance(given, str):
        return tuple(map(str, given))
    if isinstance(given, str):
        try:
            text = remote_files.read_text(remote_files.joined(root, given))
        except Exception as error:  # no text, or not to be reached
            raise remote_files.unreachable("data.options.classes", given, error) from error
        if text is None:
            raise user_error("data.options.classes", given, "a file that is there, with the name of a class in a line")
        return _lines(text)
    beside = train[0].url.rpartition("/")[0]
    for place in (f"{folder}/{name}" for folder in dict.fromkeys((beside, root.rstrip("/"))) for name in _CLASS_FILES):
        with suppress(Exception):  # a server may answer anything for what it does not have
            if text := remote_files.read_text(place):
                return _lines(text)
    return ()


def _lines(text: str) -> tuple[str, ...]:
    return tuple(line.strip() for line in text.splitlines() if line.strip())


def named(root: str, own: Index, row: int, labels: Labels, names: Sequence[str]) -> Labels | None:
    """Return the classes of a picture by name; None where it has none, which numbers below zero say, too.

    Raises `UserError` where its labels are not among the `names`, if there are any.
    """
    known = [text for text in labels if not re.fullmatch(r"-\d+", text)]
    return tuple(_class_name(root, own, row, text, names) for text in known) if known or not labels else None


def _class_name(root: str, own: Index, row: int, text: str, names: Sequence[str]) -> str:
    if not names or text in names:
        return text
    if text.isascii() and text.isdecimal():
        if int(text) < len(names):
            return names[int(text)]
        expected = f"labels below {len(names)}, the number of names, and {own.name(row)} has {text}"
        raise user_error("data.root", root, expected)
    raise user_error("data.root", root, f"labels among the names of classes, and {own.name(row)} has {text}", names)
