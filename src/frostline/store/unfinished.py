"""Notes of finished work in an unfinished entry, from which another process continues after a kill.

Writes of a killed process are in the page cache as long as the machine runs. After a restart of the machine they may be
lost, so notes from before it are not trusted.
"""

from __future__ import annotations

import json
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

_NOTES = "unfinished.jsonl"
_BOOT = Path("/proc/sys/kernel/random/boot_id")  # Linux only; elsewhere every entry starts from scratch
_KEPT = 86_400.0  # seconds for which an unfinished entry is kept


def notes(part: Path) -> list[Any]:
    """Return the notes of the entry in the folder `part`; empty if they cannot be trusted."""
    found = []
    with suppress(OSError, ValueError):
        for line in (part / _NOTES).read_text(encoding="utf-8").splitlines(keepends=True):
            if line.endswith("\n"):  # a kill may truncate the last one
                found.append(json.loads(line))
    return found[1:] if found and found[0] == _boot() else []  # `begin` writes none without a boot id


def begin(part: Path) -> None:
    """Start the notes of the entry in the empty folder `part` with the boot id, until whose change they are trusted."""
    if (boot := _boot()) is not None:
        (part / _NOTES).write_text(json.dumps(boot) + "\n")


def note(part: Path, value: Any) -> None:
    """Append a note of finished work, whose data was written before. Thread-safe; write errors are ignored."""
    with suppress(OSError), (part / _NOTES).open("a", encoding="utf-8") as file:
        file.write(json.dumps(value) + "\n")


def forget(part: Path) -> None:
    """Remove the notes: the entry is complete."""
    (part / _NOTES).unlink(missing_ok=True)


def is_wanted(part: Path) -> bool:
    """Return whether a process may still continue the entry in the folder `part`."""
    try:
        return bool(notes(part)) and time.time() - (part / _NOTES).stat().st_mtime < _KEPT
    except OSError:
        return False


def _boot() -> str | None:
    """Return the id of this boot of the machine; None if it is not known."""
    try:
        return _BOOT.read_text(encoding="ascii").strip()
    except OSError:
        return None
