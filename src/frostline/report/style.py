"""Colours, markers and line styles of compared values: a freeze mode looks the same in every report and plot."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import count

from frostline.records.result import Result, value_text

COLOURS = (
    *("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C8C8C"),
    *("#7A5FD0", "#999933", "#A65628", "#EE6677", "#44AA99", "#6699CC"),
    *("#B05090", "#4C9A2A", "#C77C5A", "#5F8F9F", "#B8860B", "#4169E1"),
)
"""Okabe and Ito's palette without yellow, which is hard to see on white, and twelve colours legible on any ground."""
_KNOWN = (
    *("head", "full", "last_stage", "gradual", "lp_ft", "norm", "bias"),
    *("last_two_stages", "layer_decay", "first_stage"),
    *("probe", "knn", "centroid"),
    *("lora", "dora", "ia3", "ssf", "adapter", "prompt"),
)


def numbers(results: Sequence[Result], key: str) -> dict[str, int]:
    """Return the style number (colour, marker, line) of each value of `key`, known freeze modes first.

    Known freeze modes have fixed numbers in every sweep; other values take the free ones.
    """
    values = dict.fromkeys(value_text(result.choices.get(key)) for result in results)
    known = {name: number for number, name in enumerate(_KNOWN) if key == "freeze_mode" and name in values}
    free: Iterator[int] = (number for number in count() if number not in known.values())
    return known | {name: next(free) for name in values if name not in known}
