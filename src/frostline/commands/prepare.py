"""Fetch weights and decode pictures for a sweep, here and now, for nodes that have no network; nothing is run."""

from __future__ import annotations

from frostline.commands import Parser, tell, with_overrides
from frostline.records.result import number_of, size
from frostline.sweeps import preparation


def main(arguments: list[str]) -> int:
    """Print a line for each thing that was prepared, or was there; 1 where the store could not keep all of it."""
    parser = Parser("prepare", __doc__)
    parser.add_argument("-m", "--multirun", action="store_true", help="may stand here as it does for a sweep")
    asked = with_overrides(parser, arguments, "the sweep")
    runs = preparation.planned(asked.overrides)
    unkept: list[str] = []
    for found in preparation.prepare(runs, unkept):
        print(f"{'prepared' if found.made else 'there'}: {found.what}, {size(found.size)}, {found.place}", flush=True)
    print(f"checked: {number_of(len(runs), 'run')} can begin")
    if unkept:
        tell(f"not prepared, as the store cannot keep it: {'; '.join(unkept)}")
    return 1 if unkept else 0
