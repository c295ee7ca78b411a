"""The folder of a sweep belongs to one process: made by it, or taken over from one that is gone."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

from filelock import FileLock

from frostline import alive
from frostline.config import user_error

OWNER = "owner.json"
_LOCK = ".owner.lock"
_TRIES = 1000


def claim(folder: Path, digests: Sequence[str], *, elsewhere: Callable[[Path], object] | None) -> Path:
    """Return the folder, which is this process's from now on.

    One that is there is another sweep's, unless that is gone and was to do the same (`digests`) and did not finish.
    Instead of refusing it, `elsewhere` is told of a new one beside it, if given. Raises `UserError`.
    """
    for number in range(_TRIES):
        own = folder if number == 0 else folder.with_name(f"{folder.name}-{number}")
        try:
            own.mkdir(parents=True)
        except FileExistsError:
            if elsewhere is not None:
                continue
            _take_over(own, digests)
        except OSError as error:
            if own.exists() and elsewhere is not None:
                continue
            raise user_error("hydra.sweep.dir", own, f"a folder that can be created ({error.strerror})") from None
        alive.write(own / OWNER)
        if own != folder and elsewhere is not None:
            elsewhere(own)
        return own
    raise user_error("hydra.sweep.dir", folder, "a new folder")


def _take_over(folder: Path, digests: Sequence[str]) -> None:
    """Become the owner of a sweep that was interrupted; raises `UserError` if it is not one, or another."""
    if not folder.is_dir():
        raise user_error("hydra.sweep.dir", folder, "a new folder; this is a file")
    with FileLock(folder / _LOCK):
        owner = alive.read(folder / OWNER)
        whose = f"{owner}" if owner else "somebody"
        if owner is not None and not owner.gone((folder / OWNER).stat().st_mtime) and owner != alive.me():
            raise user_error("hydra.sweep.dir", folder, f"a new folder; this one is in use by {whose}")
        if _finished(folder) or _digests(folder) != list(digests):
            raise user_error("hydra.sweep.dir", folder, f"a new folder; this one is another sweep's, of {whose}")
        alive.write(folder / OWNER)


def _digests(folder: Path) -> list[str] | None:
    """Return what the sweep in `folder` was to do; None where it never came to say so."""
    try:
        return [run["digest"] for run in json.loads((folder / "sweep.json").read_text())["runs"]]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _finished(folder: Path) -> bool:
    """Return whether every run of the sweep in `folder` finished."""
    try:
        count = len(json.loads((folder / "sweep.json").read_text())["runs"])
        results = [json.loads((folder / str(number) / "result.json").read_text()) for number in range(count)]
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return all(result["status"] in ("FINISHED", "PLANNED") for result in results)
