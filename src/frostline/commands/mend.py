"""End runs that MLflow believes to be running although their process is gone: they are marked KILLED."""

from __future__ import annotations

from frostline.commands import Parser
from frostline.core import project
from frostline.core.errors import user_error
from frostline.records.result import number_of
from frostline.sweeps import resume
from frostline.tracking import query, tracking_uri


def main(arguments: list[str]) -> int:
    """Mend the experiments given, or all; returns 0."""
    parser = Parser("mend", __doc__)
    parser.add_argument("experiments", nargs="*", default=[], help="names of experiments (all)")
    parser.add_argument("--host", help="a machine that is gone: its runs end once silent for 150 seconds, not 600")
    parser.add_argument("--uri", help="tracking URI; else MLFLOW_TRACKING_URI, else the project's own store")
    options = parser.parse_args(arguments)
    uri = tracking_uri.resolved(options.uri, project.project_root())
    known = query.experiments(uri)
    for name in options.experiments:
        if name not in known:
            raise user_error("experiments", name, f"the name of an experiment of {uri}", known)
    count = sum(resume.mend(uri, name, print, lost=options.host) for name in options.experiments or known)
    print(f"{number_of(count, 'run')} mended")
    return 0
