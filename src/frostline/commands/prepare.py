"""Download the weights and data of a sweep and decode its images now, for nodes without network; no run starts."""

from __future__ import annotations

from frostline.commands import Parser, tell, with_overrides
from frostline.records.result import number_of, size
from frostline.sweeps import preparation


def main(arguments: list[str]) -> int:
    """Print a line per item that was prepared or found; return 1 if the store could not keep one."""
    parser = Parser("prepare", __doc__)
    parser.add_argument("-m", "--multirun", action="store_true", help="has no effect; accepted as for train.py")
    asked = with_overrides(parser, arguments, "the sweep")
    runs = preparation.planned(asked.overrides)
    unkept: list[str] = []
    for found in preparation.prepare(runs):
        if found.place is None:
            unkept.append(found.what)
            continue
        print(f"{'prepared' if found.made else 'found'}: {found.what}, {size(found.size)}, {found.place}", flush=True)
    print(f"checked: {number_of(len(runs), 'run')} can start")
    if unkept:
        tell(f"not prepared, since the store cannot keep it: {'; '.join(unkept)}")
    return 1 if unkept else 0
