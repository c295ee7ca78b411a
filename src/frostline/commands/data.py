"""Inspect the data before a sweep: counts, sizes, oddities, and a page of images as the network sees them."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from frostline.api import arguments as arguments_of
from frostline.commands import Parser, with_overrides
from frostline.core import files
from frostline.core.config import DataConfig
from frostline.core.errors import user_error
from frostline.report import command_line
from frostline.sweeps import find_weights, hydra_overrides, unused_keys
from frostline.sweeps.compose import compose_one

if TYPE_CHECKING:
    from frostline.data.split_table import SplitTable
    from frostline.runs.data_facts import DataFacts
    from frostline.runs.data_gallery import Gallery
    from frostline.runs.setup import Setup


def main(arguments: list[str]) -> int:
    """Print a summary of the data that a run would be trained on, write the page, and return 0."""
    parser = Parser("data", __doc__)
    shape = parser.add_mutually_exclusive_group()
    shape.add_argument("--page", type=Path, default=Path("data.html"), metavar="FILE", help="page to write (data.html)")
    shape.add_argument("--json", action="store_true", help="print one JSON object instead, and write no page")
    parser.add_argument("--write-splits", type=Path, metavar="FILE", help="write each image's split to a .csv file")
    asked = with_overrides(parser, arguments, "a run")
    config = compose_one(asked.overrides)
    unread = unused_keys.check(hydra_overrides.typed_values(asked.overrides), [config])
    if (table := asked.write_splits) is not None:
        if table.suffix != ".csv":
            raise user_error("--write-splits", table, "a .csv file")
        files.require_place("--write-splits", table)
    if not asked.json:
        files.require_place("--page", asked.page)
    from frostline.data import loading, split_table
    from frostline.report import data_page, data_words
    from frostline.report.terminal import Screen
    from frostline.runs import data_facts, data_gallery  # imports torch

    beside = Screen.beside()
    for line in unread:
        beside.say(line)

    def look() -> tuple[Setup, DataFacts, Gallery | None]:
        setup = data_facts.open_data(config, beside, find_weights.weights)
        return setup, data_facts.facts(setup), None if asked.json else data_gallery.gallery(setup)

    setup, facts, gallery = loading.despite_damage(look, beside.say)
    if table is not None:
        parts = loading.whole_splits(config.data, setup.store)
        beside.say(_written(split_table.write(table, parts, config.data), config.data))
    if gallery is None:
        print(json.dumps(asdict(facts), indent=1, ensure_ascii=False))
        return 0
    data_words.show(facts, Screen())
    with arguments_of.writing("--page", asked.page):
        print(files.absolute(str(data_page.write(asked.page, facts, gallery))))
    return 0


def _written(splits: SplitTable, config: DataConfig) -> str:
    """Return a line with the counts of a table of splits and the overrides that load the same splits again."""
    counts = ", ".join(f"{count:,} {name}" for name, count in splits.counts.items())
    shrunk: dict[str, object] = {"data.fraction": config.fraction} if config.fraction < 1 else {}
    shrunk |= {"data.limit": config.limit} if config.limit is not None else {}
    shrunk |= {"data.shots": config.shots} if config.shots is not None else {}
    shrunk |= {"data.subset_seed": config.subset_seed} if config.subset_seed is not None else {}
    shrunk |= {"data.eval_limit": config.eval_limit} if config.eval_limit is not None else {}
    shrunk |= {"data.split_seed": config.split_seed} if shrunk and config.split_seed else {}
    typed = " ".join(command_line.typed(key, value) for key, value in (splits.options | shrunk).items())
    return f"{splits.file}: {counts}; to use these splits again: {typed}"
