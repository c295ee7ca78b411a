"""Write the HTML report of sweeps anew: of their folders, MLflow run ids, or a whole experiment."""

from __future__ import annotations

from pathlib import Path

from frostline import api
from frostline.commands import CALLED, Parser
from frostline.core.errors import named
from frostline.records import layout


def main(arguments: list[str]) -> int:
    """Write the report, or the plots too, and print where they are; 0."""
    parser = Parser("report", __doc__)
    parser.add_argument("sweep", nargs="+", help=f"a sweep, or a run of it: {CALLED}")
    parser.add_argument("-o", "--output", type=Path, help="file of the report; of one sweep its own report.html")
    parser.add_argument("--plots", action="store_true", help="also draw plots as PNG and SVG, in plots/ beside it")
    asked = parser.parse_args(arguments)
    sweep = api.open(*asked.sweep)
    with named(path="--output", folder="--plots"):
        path = sweep.report(asked.output).path
        print(path)
        if asked.plots:
            print(*sweep.plots(path.parent / layout.PLOTS), sep="\n")
    return 0
