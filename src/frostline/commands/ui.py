"""`python -m frostline ui`: open MLflow at the newest experiment, with the columns that answer."""

from __future__ import annotations

import contextlib
import threading
import webbrowser

from frostline.commands import Parser, browse
from frostline.core import project
from frostline.tracking import server


def main(arguments: list[str]) -> int:
    """Show the pages until Ctrl-C; those of a tracking server are only opened."""
    parser = Parser("ui", __doc__)
    parser.add_argument("--experiment", help="its name; default: the one that changed last")
    parser.add_argument("--uri", help="tracking URI; default: MLFLOW_TRACKING_URI, else the project's own")
    parser.add_argument("--port", type=int, default=5000, help="on this machine; 0 takes a free one (default: 5000)")
    parser.add_argument("--no-browser", action="store_true", help="only print the address")
    options = parser.parse_args(arguments)
    uri = server.tracking_uri(options.uri, project.project_root())
    experiment = browse.newest_experiment(uri, options.experiment)
    browse.set_columns(uri, experiment)
    with contextlib.nullcontext(uri) if server.is_server(uri) else browse.pages(uri, options.port) as base:
        where = browse.address(base, experiment)
        print(where, flush=True)
        if not options.no_browser:
            webbrowser.open(where)
        if base != uri:
            with contextlib.suppress(KeyboardInterrupt):
                threading.Event().wait()
    return 0
