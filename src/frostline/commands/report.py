"""Write the HTML report of sweeps anew: of their folders, MLflow run ids, or a whole experiment."""

from __future__ import annotations

import argparse
from pathlib import Path

from frostline import gather, webpage


def main(arguments: list[str]) -> int:
    """Write the report and print where it is; 0."""
    parser = argparse.ArgumentParser(prog="frostline report", description=__doc__)
    parser.add_argument("sweep", nargs="+", help="folder of a sweep, MLflow run id, or name of an experiment")
    parser.add_argument("-o", "--output", type=Path, help="the file; of one sweep its folder's report.html")
    asked = parser.parse_args(arguments)
    sweeps = [gather.read(Path(name)) for name in asked.sweep]
    target = asked.output or (sweeps[0].folder if len(sweeps) == 1 else Path()) / webpage.PAGE
    title = f"Sweep {sweeps[0].name}" if len(sweeps) == 1 else f"{len(sweeps)} sweeps"
    print(webpage.write(target.absolute(), gather.together(sweeps), title=title, tracker=sweeps[0].tracker))
    return 0
