"""What was done of an entry when whoever made it was killed, from which the next one goes on.

What a killed process had written is there for as long as the machine runs; what a machine had written that stopped may
not be, so that nothing is taken over from before it was started.
"""

from __future__ import annotations

import json
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

_NOTES = "unfinished.jsonl"
_BOOT = Path("/proc/sys/kernel/random/boot_id")  # of Linux; elsewhere every entry is begun anew
_KEPT = 86_400.0  # seconds in which somebody may want to go on


def notes(part: Path) -> list[Any]:
    """Return what was noted of the entry in the folder `part`; nothing where that cannot be trusted."""
    found = []
    with suppress(OSError, ValueError):
        for line in (part / _NOTES).read_text(encoding="utf-8").splitlines(keepends=True):
            if line.endswith("\n"):  # a kill may cut the last one
                found.append(json.loads(line))
    return found[1:] if found and found[0] == _boot() else []  # nor without a beginning, where that is not known


def begin(part: Path) -> None:
    """Have notes of the entry in the empty folder `part` be trusted for as long as the machine runs."""
    if (boot := _boot()) is not None:
        (part / _NOTES).write_text(json.dumps(boot) + "\n")


def note(part: Path, value: Any) -> None:
    """Note something that is done, for good: what it is about is written. Threads may."""
    with suppress(OSError), (part / _NOTES).open("a", encoding="utf-8") as file:
        file.write(json.dumps(value) + "\n")


def forget(part: Path) -> None:
    """Remove what was noted: the entry is whole."""
    (part / _NOTES).unlink(missing_ok=True)


def is_wanted(part: Path) -> bool:
    """Return whether somebody may go on with what is in the folder `part`."""
    try:
        return bool(notes(part)) and time.time() - (part / _NOTES).stat().st_mtime < _KEPT
    except OSError:
        return False


def _boot() -> str | None:
    """Return what stands for this run of the machine; None where it is not known."""
    try:
        return _BOOT.read_text().strip()
    except OSError:
        return None
