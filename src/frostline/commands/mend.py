"""End runs that MLflow believes to be running although their process is gone: they are marked KILLED."""

from __future__ import annotations

from frostline.commands import Parser
from frostline.core import project
from frostline.core.errors import user_error
from frostline.sweeps import resume
from frostline.tracking import server


def main(arguments: list[str]) -> int:
    """Mend the experiments given; returns 0."""
    parser = Parser("mend", __doc__)
    parser.add_argument("experiments", nargs="*", default=["frostline"], help="names of experiments (frostline)")
    parser.add_argument("--host", help="a machine that is gone: its runs end once silent for 150 seconds, not 600")
    parser.add_argument("--uri", help="tracking URI; else MLFLOW_TRACKING_URI, else the project's own store")
    options = parser.parse_args(arguments)
    uri = server.tracking_uri(options.uri, project.project_root())
    try:
        count = sum(resume.mend(uri, experiment, print, lost=options.host) for experiment in options.experiments)
    except server.Unreachable as error:
        raise user_error("uri", uri, f"a store that answers ({error})") from None
    print(f"{count} {'run' if count == 1 else 'runs'} mended")
    return 0
