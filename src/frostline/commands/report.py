"""Write the HTML report of sweeps anew: of their folders, MLflow run ids, or a whole experiment."""

from __future__ import annotations

import tempfile
from pathlib import Path

from frostline.commands import Parser
from frostline.records import layout
from frostline.report import combine, html, plots
from frostline.sweeps import catalog


def main(arguments: list[str]) -> int:
    """Write the report, or the plots too, and print where they are; 0."""
    parser = Parser("report", __doc__)
    parser.add_argument("sweep", nargs="+", help="folder of a sweep, MLflow run id, or name of an experiment")
    parser.add_argument("-o", "--output", type=Path, help="file of the report; of one sweep its own report.html")
    parser.add_argument("--plots", action="store_true", help="also draw plots as PNG and SVG, in plots/ beside it")
    asked = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as scratch:
        sweeps = catalog.sweeps(asked.sweep, Path(scratch))
        results = combine.together(sweeps)
        title = f"Sweep {sweeps[0].name}" if len(sweeps) == 1 else f"{len(sweeps)} sweeps"
        alone = len(sweeps) == 1 and not sweeps[0].folder.is_relative_to(scratch)
        path = (asked.output or (sweeps[0].folder if alone else Path()) / layout.REPORT).absolute()
        path.parent.mkdir(parents=True, exist_ok=True)
        print(html.write(path, results, title=title, tracker=sweeps[0].tracker, scratch=Path(scratch)))
        if asked.plots:
            print(*plots.write(path.parent / layout.PLOTS, results), sep="\n")
    return 0
