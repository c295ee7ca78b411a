"""What a notebook hands in, checked: a mistake is a `UserError` that names the argument."""

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
    """Return what was told of a run or sweep; UserError where one of it is no text."""
    if odd := [one for one in overrides if not isinstance(one, str)]:
        raise user_error("overrides", reprlib.repr(odd[0]), 'texts, an argument each, as in "freeze=head", "lr=1e-3"')
    return overrides


def place(name: str, path: Path | str) -> Path:
    """Return where a path leads, absolute and with the home that `~` stands for; UserError for what is none."""
    if not isinstance(path, Path | str) or path == "" or "\0" in str(path):
        raise user_error(name, reprlib.repr(path), "a path")
    return files.expanded(str(path)).absolute()


@contextmanager
def writing(name: str, file: Path) -> Iterator[None]:
    """Raise `UserError` where the system does not let the block write."""
    try:
        yield
    except OSError as error:
        raise user_error(name, file, f"a place that can be written to ({error.strerror or error})") from None


def whole(name: str, number: int) -> int:
    """Return a number of things, NumPy's too; UserError for any other."""
    try:
        count = operator.index(number)
    except TypeError:
        count = 0
    if count < 1 or isinstance(number, bool):
        raise user_error(name, number, "a whole number of at least 1")
    return count


def listed(pictures: Any) -> list[Any]:
    """Return pictures one by one: of a list, a column of a table or whatever yields them, else the one."""
    if getattr(pictures, "ndim", None) == 1:
        return list(pictures.tolist())
    several = isinstance(pictures, list | tuple | Iterator) and not isinstance(pictures, io.IOBase)
    return list(pictures) if several else [pictures]
