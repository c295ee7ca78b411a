"""Class names for numeric labels in WebDataset shards, from an option or a file beside the shards."""

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
    """Return the class names for numbers: `given`, or from a file with a common name beside the shards; else empty.

    Raises `UserError` if a `given` file cannot be read.
    """
    if isinstance(given, Sequence) and not isinstance(given, str):
        return tuple(map(str, given))
    if isinstance(given, str):
        try:
            text = remote_files.read_text(remote_files.joined(root, given))
        except Exception as error:  # not text, or unreachable
            raise remote_files.unreachable("data.options.classes", given, error) from error
        if text is None:
            raise user_error("data.options.classes", given, "a file that exists, with a class name per line")
        return _lines(text)
    beside = train[0].url.rpartition("/")[0]
    for place in (f"{folder}/{name}" for folder in dict.fromkeys((beside, root.rstrip("/"))) for name in _CLASS_FILES):
        with suppress(Exception):  # a server may answer anything for a missing file
            if text := remote_files.read_text(place):
                return _lines(text)
    return ()


def _lines(text: str) -> tuple[str, ...]:
    return tuple(line.strip() for line in text.splitlines() if line.strip())


def named(root: str, own: Index, row: int, labels: Labels, names: Sequence[str]) -> Labels | None:
    """Return the class names of an image; None if it has no label, which negative numbers mean, too.

    Raises `UserError` if there are `names` and its labels are not among them.
    """
    known = [text for text in labels if not re.fullmatch(r"-\d+", text)]
    return tuple(_class_name(root, own, row, text, names) for text in known) if known or not labels else None


def _class_name(root: str, own: Index, row: int, text: str, names: Sequence[str]) -> str:
    if not names or text in names:
        return text
    if text.isascii() and text.isdecimal():
        if int(text) < len(names):
            return names[int(text)]
        expected = f"labels below {len(names)}, the number of class names, but {own.name(row)} has {text}"
        raise user_error("data.root", root, expected)
    raise user_error("data.root", root, f"labels among the class names, but {own.name(row)} has {text}", names)
