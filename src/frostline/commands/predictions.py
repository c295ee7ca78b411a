"""Write every test image with its label, the class that a run gave it, and whether that is right, as CSV.

A sweep stands for all seeds and folds of its best cell.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from frostline import api
from frostline.api import arguments as arguments_of
from frostline.api.results import Run, Sweep
from frostline.commands import CALLED, Parser, tell
from frostline.core import files
from frostline.core.errors import named, user_error
from frostline.data.names import counted
from frostline.sweeps import tested_runs
from frostline.sweeps.catalog import TypedName


def main(arguments: list[str]) -> int:
    """Write a row per run and test image to `--output`, or print them; return 0."""
    parser = Parser("predictions", __doc__)
    parser.add_argument("run", help=f"a run, or a sweep (all seeds and folds of its best cell): {CALLED}")
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="write to a .csv file")
    parser.add_argument("overrides", nargs="*", default=[], help="where the images are now: data.root=…")
    options = parser.parse_intermixed_args(arguments)
    if options.output is not None:
        if options.output.suffix != ".csv":
            raise user_error("--output", options.output, "a .csv file")
        files.require_place("--output", options.output)
    with named(sweep="run"), tempfile.TemporaryDirectory() as scratch:
        rows = _meant(options.run, Path(scratch)).test_images(*options.overrides)
    if options.output is None:
        rows.to_csv(sys.stdout, index=False)
        return 0
    with arguments_of.writing("--output", options.output):
        files.write(options.output, rows.to_csv(index=False))
    print(f"{options.output}: {counted(len(rows), 'row', 'rows')}, {int((~rows['right']).sum()):,} of them wrong")
    return 0


def _meant(name: str, scratch: Path) -> Run | Sweep:
    """Return the run that a name stands for, or the sweep."""
    if found := tested_runs.named([TypedName(name)], scratch):
        return Run(found[0])
    sweep = api.open(name)
    tell(f"all seeds and folds of the best cell by validation, that of {sweep.best.name}")
    return sweep
