"""Send MLflow what it lacks of the records of sweeps, e.g. after a tracking server was down."""

from __future__ import annotations

from pathlib import Path

from frostline.commands import Parser
from frostline.core.errors import user_error
from frostline.records import run_folders
from frostline.tracking import pending_sweeps, server, sync, tracking_uri
from frostline.tracking.sync import SweepMirror


def main(arguments: list[str]) -> int:
    """Complete the given sweeps, or all pending ones; return 1 if one of them stays pending."""
    parser = Parser("sync", __doc__)
    parser.add_argument("folder", nargs="*", help="folder of a sweep (default: all pending sweeps, of --uri if given)")
    parser.add_argument("--uri", help="tracking URI (default: the one that the sweep was recorded to)")
    options = parser.parse_args(arguments)
    if "" in options.folder:
        raise user_error("folder", "", "the folder of a sweep, not an empty name")
    uri = tracking_uri.resolved(options.uri)
    folders = [*map(Path, options.folder)] or pending_sweeps.remembered(uri, elsewhere=options.uri is None)
    if not folders:
        print("Nothing is pending.")
    return max([_sync(folder, options.uri) for folder in folders], default=0)


def _sync(folder: Path, uri: str | None) -> int:
    sweep = SweepMirror(folder.resolve(), pending_sweeps.place_of(folder, uri))
    try:
        done = sync.complete(sweep)
    except server.Unreachable as problem:
        print(f"{folder}: still pending, {problem}")
        return 1
    except OSError as problem:  # e.g. another user's folder, which is read-only for us
        print(f"{folder}: still pending, {problem.filename}: {problem.strerror}")
        return 1
    if not done:
        print(f"{folder}: its process is running, and sends its record itself")
    else:
        going_on = len(run_folders.going_on(folder))
        state = f"{going_on} run(s) are still running, so it stays pending" if going_on else "complete"
        print(f"{folder}: {state}" + (f", {sweep.sent} record(s) sent" if sweep.sent else ""))
    return 0
