"""Mark runs as KILLED that MLflow shows as RUNNING although their process is gone."""

from __future__ import annotations

from frostline.commands import Parser
from frostline.core.errors import user_error
from frostline.records.result import number_of
from frostline.sweeps import resume
from frostline.tracking import query, tracking_uri


def main(arguments: list[str]) -> int:
    """Mend the given experiments, or all, print the number of runs that were marked, and return 0."""
    parser = Parser("mend", __doc__)
    parser.add_argument("experiments", nargs="*", default=[], help="names of experiments (default: all)")
    parser.add_argument("--host", help="a machine that is gone: mark its runs after 150 s of silence, not 600 s")
    parser.add_argument("--uri", help="tracking URI (default: MLFLOW_TRACKING_URI, else the project's own store)")
    options = parser.parse_args(arguments)
    uri = tracking_uri.resolved(options.uri)
    known = query.experiments(uri)
    for name in options.experiments:
        if name not in known:
            raise user_error("experiments", name, f"the name of an experiment of {uri}", known)
    count = sum(resume.mend(uri, name, print, lost=options.host) for name in options.experiments or known)
    print(f"{number_of(count, 'run')} mended")
    return 0
