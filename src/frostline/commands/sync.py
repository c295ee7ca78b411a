"""`python -m frostline sync [folder ...]`: complete in MLflow the records of sweeps that it does not have in full."""

from __future__ import annotations

from pathlib import Path

from frostline.commands import Parser
from frostline.core import project
from frostline.core.errors import user_error
from frostline.records import sweep_record
from frostline.tracking import pending_sweeps, server, sync, tracking_uri
from frostline.tracking.sync import SweepMirror


def main(arguments: list[str]) -> int:
    """Complete the given sweeps, else all that are known to be pending; return 1 if one of them stays pending."""
    parser = Parser("sync", __doc__)
    parser.add_argument("folder", nargs="*", help="a sweep's folder; default: all that are pending")
    parser.add_argument("--uri", help="tracking URI; default: what the sweep was recorded to")
    options = parser.parse_args(arguments)
    root = project.project_root()
    if "" in options.folder:
        raise user_error("folder", "", "the folder of a sweep, and this is empty")
    folders = [*map(Path, options.folder)] or pending_sweeps.remembered(tracking_uri.resolved(options.uri, root), root)
    if not folders:
        print("Nothing is pending.")
    return max([_sync(folder.resolve(), root, options.uri) for folder in folders], default=0)


def _sync(folder: Path, root: Path, uri: str | None) -> int:
    sweep = SweepMirror(folder, pending_sweeps.place_of(folder, root, uri))
    waiting = sweep.pending()
    try:
        done = sync.complete(sweep)
    except server.Unreachable as problem:
        print(f"{folder}: still pending, MLflow is away ({problem})")
        return 1
    except OSError as problem:  # a folder of somebody else's, in which we may not write
        print(f"{folder}: still pending, {problem.filename}: {problem.strerror}")
        return 1
    if not done:
        print(f"{folder}: its process is at work, and passes on its record itself")
    else:
        going_on = len(sweep_record.going_on(folder))
        state = f"{going_on} run(s) go on, so it stays pending" if going_on else "complete"
        print(f"{folder}: {state}" + (f", {waiting} record(s) passed on" if waiting else ""))
    return 0
