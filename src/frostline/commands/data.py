"""Look at data before a sweep: counts, sizes, what is odd, and a page of pictures as the network sees them."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from frostline.commands import Parser
from frostline.core.errors import user_error
from frostline.runs import data_gallery
from frostline.sweeps import find_weights
from frostline.sweeps.compose import compose_one


def main(arguments: list[str]) -> int:
    """Print what a run would be trained on, and write the page; 0."""
    parser = Parser("data", __doc__)
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="what would be typed for a run")
    shape = parser.add_mutually_exclusive_group()
    shape.add_argument("--page", type=Path, default=Path("data.html"), metavar="FILE", help="of the page (data.html)")
    shape.add_argument("--json", action="store_true", help="print one JSON object instead, and write no page")
    asked = parser.parse_intermixed_args(arguments)
    config = compose_one(asked.overrides)
    if not asked.json and (asked.page.is_dir() or not asked.page.absolute().parent.is_dir()):
        raise user_error("--page", asked.page, "a file in a folder that is there")
    from rich.console import Console

    from frostline.report import data_page, data_words
    from frostline.report.terminal import Screen
    from frostline.runs import data_facts  # imports torch

    beside = Screen(Console(stderr=True, markup=False, highlight=False, emoji=False))
    opened = data_facts.open_data(config, beside, find_weights.weights)
    facts = data_facts.facts(opened)
    if asked.json:
        print(json.dumps(asdict(facts), indent=1, ensure_ascii=False))
        return 0
    data_words.show(facts, Screen())
    print(data_page.write(asked.page, facts, data_gallery.gallery(opened)).absolute())
    return 0
