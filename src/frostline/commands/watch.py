"""Follow a sweep, on a cluster or here, until it is over: a line whenever runs start, progress or end."""

from __future__ import annotations

from pathlib import Path

from frostline.commands import Parser
from frostline.core import files, project
from frostline.core.errors import user_error
from frostline.records import layout, run_folders
from frostline.sweeps import watching


def main(arguments: list[str]) -> int:
    """Follow the sweep until it is over or Ctrl-C, which leaves it running; return 0 if all its runs finished."""
    parser = Parser("watch", __doc__)
    parser.add_argument("sweep", help="the folder of a sweep or of one of its runs, or the name of that folder")
    return watching.follow(_found(parser.parse_args(arguments).sweep))


def _found(name: str) -> Path:
    """Return the folder of a sweep, which may have only queued jobs so far; `UserError` if there is none."""
    typed = files.absolute(name)
    folders = [typed] if Path(name).is_absolute() else [typed, *project.multirun().glob(f"*/{name}")]
    for folder in folders if name else ():
        if (folder / layout.JOBS).is_file():
            return folder
        if (sweep := run_folders.sweep_of(folder)) is not None:
            return sweep
    near = [str(file.parent) for file in sorted(project.multirun().glob(f"*/*/{layout.SWEEP}"))]
    raise user_error("sweep", name, "the folder of a sweep, or the name of that folder", near)
