"""Checks of the arguments of the Python API: a mistake is a `UserError` that names the argument."""

from __future__ import annotations

import io
import operator
import reprlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from frostline.core import files
from frostline.core.errors import user_error


def texts(overrides: Sequence[str]) -> Sequence[str]:
    """Return the overrides of a run or sweep; UserError if one of them is no string."""
    if odd := [one for one in overrides if not isinstance(one, str)]:
        raise user_error("overrides", reprlib.repr(odd[0]), 'strings, one each, as in "freeze=head", "lr=1e-3"')
    return overrides


def place(name: str, path: Path | str) -> Path:
    """Return a path as absolute, with `~` expanded; UserError if it is no path."""
    if not isinstance(path, Path | str) or path == "" or "\0" in str(path):
        raise user_error(name, reprlib.repr(path), "a path")
    return files.absolute(str(path))


@contextmanager
def writing(name: str, file: Path, typed: Path | str | None = None) -> Iterator[None]:
    """Turn an OSError of the block, which writes `file`, into a `UserError` for the argument `name`; refuse devices.

    The error shows the file as it was `typed`, if that is given.
    """
    files.require_no_device(name, file)
    try:
        yield
    except OSError as error:
        raise user_error(name, typed or file, f"a place that can be written to ({error.strerror or error})") from None


def whole(name: str, number: int) -> int:
    """Return a count of at least 1 as an int, also one of NumPy; UserError for anything else."""
    try:
        count = operator.index(number)
    except TypeError:
        count = 0
    if count < 1 or isinstance(number, bool):
        raise user_error(name, number, "a whole number of at least 1")
    return count


def listed(images: Any) -> list[Any]:
    """Return images as a list: from a list, tuple, column of a table or iterator, or a single image."""
    if getattr(images, "ndim", None) == 1:
        return list(images.tolist())
    several = isinstance(images, list | tuple | Iterator) and not isinstance(images, io.IOBase)
    return list(images) if several else [images]
