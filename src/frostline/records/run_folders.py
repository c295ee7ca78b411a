"""Folders of the runs of a sweep: validated as Hydra states them, kept in `sweep.json`, and found again."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from frostline.core import files
from frostline.core.errors import user_error
from frostline.records import journal, layout, liveness
from frostline.records.layout import OF_SWEEP, SWEEP

_KEY = "hydra.sweep.subdir"
_LONGEST = 255  # bytes of a name: NAME_MAX of Linux, macOS and Windows
_DEPTHS = ("*", "*/*")
_LEFT = (layout.RECORD, layout.RESULT)


def of(sweep: Path) -> list[Path]:
    """Return the folders of the runs of `sweep`, begun or not, in the order of its jobs.

    If the sweep's file cannot be read, return the folders one or two levels down with a record or a result.
    """
    try:
        return [sweep / folder_of(facts) for facts in files.read_json(sweep / SWEEP)["runs"]]
    except (OSError, ValueError, KeyError, TypeError):
        found = {path.parent for depth in _DEPTHS for name in _LEFT for path in sweep.glob(f"{depth}/{name}")}
        return sorted(found, key=lambda path: (len(path.name), path))


def with_record(sweep: Path) -> list[Path]:
    """Return the folders with a record: the sweep's own first, then those of its runs."""
    return [folder for folder in (sweep, *of(sweep)) if (folder / layout.RECORD).exists()]


def going_on(sweep: Path) -> list[Path]:
    """Return the folders of the runs of a `sweep` that have a living owner."""
    return [folder for folder in with_record(sweep)[1:] if liveness.holder(folder) is not None]


def is_dry(sweep: Path) -> bool:
    """Return whether `sweep` is the folder of a dry run, with plans and no record."""
    told = files.json_or_none(sweep / SWEEP)
    planned = isinstance(told, dict) and told.get("tracker", ()) is None and not (sweep / layout.JOBS).exists()
    return planned and not any((run / layout.RECORD).exists() for run in of(sweep))


def folder_of(facts: Mapping[str, Any]) -> str:
    """Return the folder of a run, relative to its sweep's, from the sweep's file; raises ValueError for one outside.

    The file may come from an untrusted source.
    """
    name = str(facts["folder"])
    if _outside(name):
        raise ValueError(f"{name} is not inside the sweep's folder")
    return name


def sweep_of(folder: Path) -> Path | None:
    """Return the folder of the sweep that `folder` is, or to which the run in it belongs; None where there is none."""
    here = folder.absolute()
    sweeps = (path for path in (here, *here.parents) if (path / SWEEP).is_file())
    return next((path for path in sweeps if path == here or here in of(path)), None)


def require_distinct(names: Sequence[str]) -> None:
    """Raise UserError unless every run of a sweep has a separate folder within the sweep's."""
    taken: dict[str, int] = {}
    for number, name in enumerate(names):
        parts = PurePosixPath(name).parts
        long = any(len(os.fsencode(part)) > _LONGEST for part in parts)
        if _outside(name) or parts[0] in OF_SWEEP or parts[0].startswith(".") or long:
            expected = f"a folder within the sweep's, under a name of its own (no dot first, at most {_LONGEST} bytes)"
            raise user_error(_KEY, name, expected)
        if (twin := taken.setdefault(str(PurePosixPath(name)), number)) != number:
            expected = f"a folder for each run, such as ${{hydra:job.num}}; runs {twin} and {number} share this one"
            raise user_error(_KEY, name, expected)
    for name in taken:
        if (above := next((str(path) for path in PurePosixPath(name).parents if str(path) in taken), None)) is not None:
            raise user_error(_KEY, name, f"a folder for each run; this one lies inside that of run {taken[above]}")


def require_free(sweep: Path) -> None:
    """Raise UserError if `sweep` is the working directory or one above it, or if it cannot be created."""
    if sweep.resolve() in (here := Path.cwd(), *here.parents):
        raise user_error("hydra.sweep.dir", sweep, "a folder of its own, not the one where the command is typed")
    try:
        there = next(above for above in sweep.parents if above.exists())
        Path(tempfile.mkdtemp(prefix=".frostline-", dir=there)).rmdir()
    except OSError as error:
        raise user_error("hydra.sweep.dir", sweep, f"a folder that can be created ({error.strerror})") from None


def require_same(sweep: Path, names: Sequence[str]) -> None:
    """Raise UserError if the folder `sweep` has a sweep whose runs have other folders than `names`."""
    if not (sweep / SWEEP).is_file() or is_dry(sweep):
        return
    before = [path.relative_to(sweep).as_posix() for path in of(sweep)]
    if len(before) == len(names) and (moved := sorted(set(names) - set(before))):
        expected = f"the folders of the runs of the sweep in {sweep}, such as {before[0]}; or another hydra.sweep.dir"
        raise user_error(_KEY, moved[0], expected)


def _outside(name: str) -> bool:
    path = PurePosixPath(name)
    return path.is_absolute() or ".." in path.parts or not path.parts or "\0" in name


def by_uid(tops: Iterable[Path]) -> dict[str, Path]:
    """Return the folders of runs by the uid of their record: of all sweeps one or two levels below one of the `tops`.

    Records one to three levels below are included even without a sweep's file.
    """
    by_age = sorted(_records(tops), key=lambda folder: (folder / layout.RECORD).stat().st_mtime)
    return {uid: folder for folder in by_age if (uid := journal.uid(folder))}


def _records(tops: Iterable[Path]) -> Iterator[Path]:
    for top in tops:
        sweeps = (file.parent for depth in ("*", "*/*") for file in top.glob(f"{depth}/{layout.SWEEP}"))
        yield from (run for sweep in sweeps for run in of(sweep) if (run / layout.RECORD).exists())
        for depth in ("*", "*/*", "*/*/*"):
            yield from (path.parent for path in top.glob(f"{depth}/{layout.RECORD}"))
