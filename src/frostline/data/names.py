"""Names of files and classes, as they are shown to people in one line."""

from __future__ import annotations

import re
from collections.abc import Iterable

_NO_TEXT = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
"""Commands to a terminal, and bytes that are not UTF-8, as Python has them."""


def is_text(name: str) -> bool:
    """Return whether a name is text in UTF-8 on one line."""
    return not _NO_TEXT.search(name)


def printable(name: str) -> str:
    """Return a file's name with escapes for what is no text, ends a line or commands a terminal."""
    return _NO_TEXT.sub(lambda sign: ascii(sign[0])[1:-1], name)


def counted(number: int, one: str, many: str) -> str:
    """Return the number with what there is `one` or `many` of, and what is said of it: `1 row is left out`."""
    return f"1 {one}" if number == 1 else f"{number:,} {many}"


def some(names: Iterable[str]) -> str:
    """Return the first few of the names, and how many there are more."""
    names = list(map(printable, names))
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
