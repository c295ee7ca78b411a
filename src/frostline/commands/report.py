"""Write the HTML report of one or several sweeps, or of a whole experiment, again."""

from __future__ import annotations

from pathlib import Path

from frostline import api
from frostline.commands import CALLED, Parser
from frostline.core.errors import named
from frostline.records import layout


def main(arguments: list[str]) -> int:
    """Write the report, with --plots also the plots, print their paths, and return 0."""
    parser = Parser("report", __doc__)
    parser.add_argument("sweep", nargs="+", help=f"a sweep, or a run of it: {CALLED}")
    parser.add_argument("-o", "--output", type=Path, help="file of the report (for one sweep: its report.html)")
    parser.add_argument("--plots", action="store_true", help="also draw plots as PNG and SVG, into plots/ beside it")
    asked = parser.parse_args(arguments)
    sweep = api.open(*asked.sweep)
    with named(path="--output", folder="--plots"):
        path = sweep.report(asked.output).path
        print(path)
        if asked.plots:
            print(*sweep.plots(path.parent / layout.PLOTS), sep="\n")
    return 0
