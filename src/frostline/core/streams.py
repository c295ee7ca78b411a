"""Standard streams that cannot fail a run: closed ones are replaced, characters that they cannot encode are spelled."""

from __future__ import annotations

import codecs
import io
import os
import sys
from typing import TextIO

_LIKE = {"±": "+/-", "–": "-", "…": "...", "×": "x", "→": "->"}  # noqa: RUF001
_ERRORS = "frostline"
_QUIET = "FROSTLINE_QUIET"
_NARROW = ("strict", "surrogateescape", "backslashreplace")  # Python's defaults; others were chosen, and never raise


def be_quiet() -> None:
    """Make this process, and those that it starts, show only the answer."""
    os.environ[_QUIET] = "1"


def is_quiet() -> bool:
    """Return whether only the answer is to be shown."""
    return os.environ.get(_QUIET) == "1"


def prepare() -> None:
    """Make stdout and stderr accept every text: closed streams discard it, characters without an encoding are spelled.

    Call it in each process before anything is written.
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
    """Return a stream to /dev/null that occupies `descriptor`, so that no file opened later gets this number."""
    opened = os.open(os.devnull, os.O_WRONLY)
    if opened != descriptor:
        os.dup2(opened, descriptor)
        os.close(opened)
    os.set_inheritable(descriptor, True)
    return open(descriptor, "w", encoding="utf-8", errors=_ERRORS, closefd=False)


def _spelled(error: UnicodeError) -> tuple[str, int]:
    """Return a replacement for a character that cannot be encoded, similar or escaped, and the next position."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    sign = error.object[error.start]
    return _LIKE.get(sign) or sign.encode("ascii", "backslashreplace").decode("ascii"), error.start + 1
