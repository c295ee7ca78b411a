"""The standard streams, such that nothing that is written to them can end a run: missing ones, and signs they lack."""

from __future__ import annotations

import codecs
import io
import os
import sys
from typing import TextIO

_LIKE = {"±": "+/-", "–": "-", "…": "...", "×": "x", "→": "->"}  # noqa: RUF001
_ERRORS = "frostline"
_QUIET = "FROSTLINE_QUIET"
_NARROW = ("strict", "surrogateescape", "backslashreplace")  # Python's own; others were asked for, and take everything


def be_quiet() -> None:
    """Have this process, and those that it starts, show nothing but the answer."""
    os.environ[_QUIET] = "1"


def is_quiet() -> bool:
    """Return whether nothing is to be shown but the answer."""
    return os.environ.get(_QUIET) == "1"


def prepare() -> None:
    """Have stdout and stderr take every text, closed ones to nobody; what they have no sign for is escaped.

    To be called in each process before anything is written.
    """
    codecs.register_error(_ERRORS, _spelled)
    for descriptor, name in ((1, "stdout"), (2, "stderr")):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, _nowhere(descriptor))
        elif isinstance(stream, io.TextIOWrapper) and stream.errors in _NARROW:
            raw = stream.errors == "surrogateescape" and stream.encoding.lower().startswith("utf")
            stream.reconfigure(errors=stream.errors if raw else _ERRORS)


def _nowhere(descriptor: int) -> TextIO:
    """Return a stream to nobody, under the number that the next opened file would get and be written into."""
    opened = os.open(os.devnull, os.O_WRONLY)
    if opened != descriptor:
        os.dup2(opened, descriptor)
        os.close(opened)
    os.set_inheritable(descriptor, True)
    return open(descriptor, "w", encoding="utf-8", errors=_ERRORS, closefd=False)


def _spelled(error: UnicodeError) -> tuple[str, int]:
    """Return the signs that cannot be written in others that can: alike ones, else as Python escapes them."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    sign = error.object[error.start]
    return _LIKE.get(sign) or sign.encode("ascii", "backslashreplace").decode("ascii"), error.start + 1
