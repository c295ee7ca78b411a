"""Estimate before a sweep which backbone to take, how many layers to freeze, and the cost of each freeze mode."""

from __future__ import annotations

import json

from frostline.commands import Parser, positive, with_overrides
from frostline.core.errors import named
from frostline.report import advice_tables
from frostline.report.advice import facts
from frostline.report.terminal import Screen
from frostline.sweeps import advice


def main(arguments: list[str]) -> int:
    """Print the advice and return 0; no network is fine-tuned, and no record is written."""
    parser = Parser("advise", __doc__)
    parser.add_argument("--images", type=positive, default=2000, metavar="N", help="use at most N images (2000)")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead")
    asked = with_overrides(parser, arguments, "the sweep")
    with named(images="--images"):
        found = advice.advise(asked.overrides, images=asked.images, screen=Screen.beside())
    if asked.json:
        print(json.dumps(facts(found), indent=1, ensure_ascii=False))
    else:
        advice_tables.show(found, Screen())
    return 0
