"""Ownership of a sweep's folder: one process creates it, or takes it over from a process that is gone."""

from __future__ import annotations

import errno
import os
import shutil
import uuid
from collections.abc import Sequence
from pathlib import Path

from frostline.core import files, locks
from frostline.core.errors import user_error
from frostline.records import journal, layout, liveness, run_folders
from frostline.records.layout import OWNER_LOCK, SWEEP

_TRIES = 1000
_TAKEN = (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR)


def claim(folder: Path, digests: Sequence[str], *, again: bool, named: bool, search: str | None = None) -> Path:
    """Claim the folder for this process and return it, or a new one beside it if it exists and was not `named`.

    A named folder that exists is taken over only if its process is gone, its sweep has the same runs (`digests`, or
    the identity of a `search`, whose runs are not known yet), and `again` allows to resume it. A folder of a dry run
    is reused by any sweep. Raises `UserError`.
    """
    for number in range(_TRIES):
        own = folder if number == 0 else folder.with_name(f"{folder.name}-{number}")
        try:
            made = _make(own)
        except OSError as error:
            raise user_error("hydra.sweep.dir", own, f"a folder that can be created ({error.strerror})") from None
        if named and not made:
            _take_over(own, digests, search, again=again)
        if named or made:
            return own
    raise user_error("hydra.sweep.dir", folder, "a new folder")


def _make(folder: Path) -> bool:
    """Create the folder with its owner file and return True; False if a file or a folder with files is there.

    A rename makes it appear complete, even if this process is killed or another one wants the same folder.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    new = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}")
    new.mkdir()
    try:
        liveness.write(new / layout.OWNER)
        new.rename(folder)
    except OSError as error:
        shutil.rmtree(new, ignore_errors=True)
        if error.errno in _TAKEN:
            return False
        raise
    return True


def _take_over(folder: Path, digests: Sequence[str], search: str | None, *, again: bool) -> None:
    """Become the owner of a sweep that ended or was interrupted; `UserError` for any other folder."""
    if not os.path.isdir(folder):
        raise user_error("hydra.sweep.dir", folder, "a new folder; this is a file")
    with locks.held(folder / OWNER_LOCK):
        owner = liveness.read(folder / layout.OWNER)
        whose = f"{owner}" if owner else "an unknown process"
        theirs = owner not in (None, liveness.this_process())
        if owner is not None and theirs and not owner.gone((folder / layout.OWNER).stat().st_mtime):
            raise user_error("hydra.sweep.dir", folder, f"a new folder; this one is in use by {whose}")
        dry = owner is not None and run_folders.is_dry(folder)
        if owner is None or not (dry or _does(folder, digests, search)):
            other = "another search's (of other settings, data, weights or code)" if search else "another sweep's"
            raise user_error("hydra.sweep.dir", folder, f"a new folder; this one is {other}, of {whose}")
        if dry:
            for run in run_folders.of(folder):
                shutil.rmtree(run, ignore_errors=True)
            (folder / SWEEP).unlink()
        elif not again:
            raise user_error("hydra.sweep.dir", folder, f"a new folder; this one contains the sweep of {whose}")
        liveness.write(folder / layout.OWNER)


def _does(folder: Path, digests: Sequence[str], search: str | None) -> bool:
    """Return whether the sweep in `folder` has the same runs, as far as its files say which runs it has."""
    try:
        told = files.read_json(folder / SWEEP)
        return told.get("search") == search and bool(search or [run["digest"] for run in told["runs"]] == list(digests))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {told for path in run_folders.of(folder) if (told := journal.digest(path))} <= set(digests)
