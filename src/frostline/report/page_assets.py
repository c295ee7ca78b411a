"""Building blocks of HTML pages: files in `assets/report`, tables, JSON for a script element, and its numbers."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from html import escape
from importlib import resources
from string import Template

from frostline.report.statistics import Interval


def text(name: str) -> str:
    """Return the text of a file in `assets/report`."""
    return resources.files("frostline.assets").joinpath("report", name).read_text(encoding="utf-8")


def template(name: str) -> Template:
    """Return a page of `assets/report` below the common head, as a template with `$names` to substitute."""
    return Template(text("head.html") + text(name))


def table(heads: Sequence[tuple[str, bool]], rows: Iterable[Sequence[str]]) -> str:
    """Return an HTML table, given headings, each with whether its column is numeric, and rows of cells, all as HTML."""
    marks = [' class="number"' if number else "" for _, number in heads]

    def line(cells: Sequence[str], kind: str = "td") -> str:
        marked = zip(cells, marks or [""] * len(cells), strict=True)
        return "<tr>" + "".join(f"<{kind}{mark}>{cell}</{kind}>" for cell, mark in marked) + "</tr>"

    head, body = line([name for name, _ in heads], "th"), "\n".join(map(line, rows))
    return f'<table class="plain"><thead>{head}</thead><tbody>{body}</tbody></table>'


def swatch(series: str, name: str) -> str:
    """Return a name behind a mark in the colour of its series, which the page fills in, as HTML."""
    return f'<span class="swatch" data-series="{escape(series)}"></span>{escape(name)}'


def of_group(number: int, content: str) -> str:
    """Return `content` in a scrollable element that the page shows for the group of data with this number."""
    return f'<div class="scroll" data-group="{number}">{content}</div>'


def script_json(data: object) -> str:
    """Return `data` as JSON that is safe inside a `script` element, whatever names it contains."""
    found = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return found.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def shortened(value: float | None, digits: int = 9) -> float | int | None:
    """Return `value` with so many significant digits; None for None, nan and infinity.

    Nine digits avoid double rounding: 342 of 359, rounded to five digits and then to a percentage, would be 95.27%.
    """
    if value is None or not math.isfinite(value):
        return None
    short = float(f"{value:.{digits}g}")
    return int(short) if short.is_integer() else short


def ends(interval: Interval | None) -> list[float | None]:
    """Return both ends of an interval; twice None where there is no interval."""
    return [shortened(interval.low), shortened(interval.high)] if interval else [None, None]
