"""Show how far a sweep is, on a cluster or here, until it is over: as its runs begin, pass epochs and end."""

from __future__ import annotations

from pathlib import Path

from frostline.commands import Parser
from frostline.core import project
from frostline.core.errors import user_error
from frostline.records import layout, run_folders
from frostline.sweeps import watching


def main(arguments: list[str]) -> int:
    """Follow the sweep, which may be left at any time; returns 0 if all its runs finished."""
    parser = Parser("watch", __doc__)
    parser.add_argument("sweep", help="the folder of a sweep or of a run of it, or the name of that folder")
    return watching.follow(_found(parser.parse_args(arguments).sweep))


def _found(name: str) -> Path:
    """Return the folder of a sweep, which may have nothing but its queued jobs yet; raises `UserError`."""
    folders = [Path(name), *project.multirun().glob(f"*/{name}")] if not Path(name).is_absolute() else [Path(name)]
    for folder in folders if name else ():
        if (folder / layout.JOBS).is_file():
            return folder.absolute()
        if (sweep := run_folders.sweep_of(folder)) is not None:
            return sweep
    near = [str(file.parent) for file in sorted(project.multirun().glob(f"*/*/{layout.SWEEP}"))]
    raise user_error("sweep", name, "the folder of a sweep, or the name of that folder", near)
