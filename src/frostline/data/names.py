"""Formatting of file and class names for one-line messages."""

from __future__ import annotations

import re
from collections.abc import Iterable

_NO_TEXT = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
"""Control characters, and the surrogates by which Python represents bytes that are not UTF-8."""


def is_text(name: str) -> bool:
    """Return whether a name is a single line of valid UTF-8 text."""
    return not _NO_TEXT.search(name)


def printable(name: str) -> str:
    """Return a file's name with control characters and invalid UTF-8 escaped."""
    return _NO_TEXT.sub(lambda sign: ascii(sign[0])[1:-1], name)


def counted(number: int, one: str, many: str) -> str:
    """Return the number with the singular `one` or the plural `many`, e.g. `1 row is left out`."""
    return f"1 {one}" if number == 1 else f"{number:,} {many}"


def some(names: Iterable[str]) -> str:
    """Return the first five names, joined by commas, and the number of the others."""
    names = list(map(printable, names))
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
