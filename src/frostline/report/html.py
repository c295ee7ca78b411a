"""The HTML report: one file that contains its data and its libraries, and opens offline by a double click.

The page embeds plotly (charts) and DataTables (tables, from itables), compressed with gzip, which browsers can
decompress since 2023.
"""

from __future__ import annotations

import base64
import functools
import gzip
import importlib.util
import re
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from frostline.core import files
from frostline.core.metrics import ACCURACY, Metric
from frostline.records.result import Result, number_of, value_text
from frostline.report import page_assets, page_data, search_page
from frostline.report.cells import differing
from frostline.report.studies import short_text
from frostline.report.terminal import sentences

_COMMAND = re.compile(r"`([^`]+)`")


def write(
    path: Path,
    results: Sequence[Result],
    *,
    title: str,
    tracker: Mapping[str, str] | None = None,
    scratch: Path | None = None,
) -> Path:
    """Write the report on `results` to `path` and return `path`.

    The page does not link to files in `scratch`, a folder that will be deleted.
    """
    data = page_data.collect(results, page=path, tracker=tracker, scratch=scratch)
    text = page_assets.template("page.html").substitute(
        title=escape(title),
        about=escape(_about(results)),
        style=page_assets.text("page.css"),
        verdicts="\n".join(_verdict(number, group) for number, group in enumerate(data["groups"])),
        contenders="\n".join(_contenders(number, group) for number, group in enumerate(data["groups"])),
        pairs="\n".join(_pairs(number, group) for number, group in enumerate(data["groups"])),
        search=search_page.section(data["groups"]),
        data=page_assets.script_json(data),
        plotly=_packed("plotly", "package_data/plotly.min.js"),
        tables=_packed("itables", "html/dt_bundle.js"),
        tables_style=_packed("itables", "html/dt_bundle.css"),
        script=page_assets.text("page.js") + search_page.script(data["groups"]),
    )
    files.write(path, text)
    return path


def _about(results: Sequence[Result]) -> str:
    states = Counter(result.status.lower() for result in results)
    counts = ", ".join(f"{states[state]:,} {state}" for state in sorted(states, key=lambda state: state != "finished"))
    return f"{number_of(len(results), 'run')}: {counts}. Made on {time.strftime('%Y-%m-%d at %H:%M')}."


def _verdict(number: int, group: Mapping[str, Any]) -> str:
    """Return a verdict as HTML: its first sentence large, the rest below, a line each, commands as code to copy."""
    where = f"With {group['where']}: " if group["where"] else ""
    first, *rest = sentences(group["verdict"])
    lines = [_marked(where + first), *(f'<span class="then">{_marked(sentence)}</span>' for sentence in rest)]
    return f'<p class="verdict" data-group="{number}">{" ".join(lines)}</p>'


def _marked(text: str) -> str:
    return _COMMAND.sub(_code, escape(text))


def _code(found: re.Match[str]) -> str:
    """Return what stood between backticks as code: a command, or a word such as the name of a freeze mode."""
    return f'<code class="again" title="copy">{found[1]}</code>' if " " in found[1] else f"<code>{found[1]}</code>"


def _contenders(number: int, group: Mapping[str, Any]) -> str:
    """Return the table of the best cells; with the verdict, all that a reader without JavaScript sees."""
    found = group["contenders"]
    if not found:
        return ""
    tried = [{key: value for key, value in cell["at"].items() if value is not None} for cell in group["cells"]]
    keys = differing(tried)  # of this group: a key that tells the groups apart has one value here
    by = Metric(**group["by"])
    test = "test" if by == ACCURACY else f"test {by.words}"
    head = [
        test,
        "95% interval",
        "behind the first",
        "validation",
        "time (s)",
        *keys,
        "runs" if group["folds"] else "seeds",
        "trials" if "search" in group else "cells tried",
        *(["adapter"] if any(one["adapter"] for one in found) else []),
    ]
    text = short_text if "search" in group else value_text
    rows = [_row(one, keys, by, text, adapter="adapter" in head) for one in found]
    if group["baseline"] and group["baseline"][1] is not None:
        name, value = group["baseline"]
        always = f'<span class="quiet">always {escape(name)}, the largest class</span>'
        rows.append([always, by.text(value), *[""] * (len(head) - 1)])
    heads = [("", False), *((escape(name), name != "adapter") for name in head)]
    several = by == ACCURACY and any("f1" in one for one in found)
    note = '<p class="quiet">Accuracy counts the images whose classes are all right.</p>' if several else ""
    return page_assets.of_group(number, page_assets.table(heads, rows) + note)


def _pairs(number: int, group: Mapping[str, Any]) -> str:
    """Return the table of backbones by freeze modes; empty if there is only one backbone or one mode."""
    found = group["pairs"]
    if not found:
        return ""
    by, modes, models = Metric(**group["by"]), found["modes"], found["models"]
    heads = [*(page_assets.swatch(mode, mode) for mode in modes), escape(f"{modes[0]} against {modes[1]}")]
    rows = []
    for model, scores, gap in zip(models, found["scores"], found["of_modes"], strict=True):
        best = [[model, mode] == list(found["best"]) for mode in modes]
        cells = [_pair(score, by, best=first) for score, first in zip(scores, best, strict=True)]
        rows.append([escape(model), *cells, _gap(gap, by)])
    against = escape(f"{models[0]} against {models[1]}")
    rows.append([f'<span class="quiet">{against}</span>', *(_gap(gap, by) for gap in found["of_models"]), ""])
    table = page_assets.table([("", False), *((name, True) for name in heads)], rows)
    return page_assets.of_group(number, f"<h3>Backbones and freeze modes, test {by.words}</h3>{table}")


def _pair(score: Sequence[float | None] | None, by: Metric, *, best: bool) -> str:
    if not score or score[0] is None:
        return "-"
    text = by.text(score[0], 1)
    within = "" if score[1] is None or score[2] is None else by.span(score[1], score[2])
    return f'<span title="{within}">{f"<strong>{text}</strong>" if best else text}</span>'


def _gap(gap: Sequence[Any] | None, by: Metric) -> str:
    """Return a difference with its interval, and how that was computed as a tooltip; a dash if it is not known."""
    if not gap:
        return "-"
    within = "" if gap[1] is None else f" ({by.span(gap[1], gap[2])})"
    return f'<span title="{escape(gap[3])}">{by.number(gap[0], 1)}{within}</span>'


def _row(
    one: Mapping[str, Any], keys: Sequence[str], by: Metric, text: Callable[[object], str], *, adapter: bool
) -> list[str]:
    test, low, high = one["test"]
    gap = one["behind"]
    seconds = one["cost"][0]
    return [
        page_assets.swatch(one["series"], one["name"]),
        by.text(test),
        "-" if low is None else by.span(low, high),
        "" if gap is None else _gap(gap, by),
        by.text(one["val"][0]),
        "-" if seconds is None else f"{seconds:.3g}",
        *("-" if one["at"][key] is None else escape(text(one["at"][key])) for key in keys),
        f"{one['seeds'][0]}" if one["seeds"][0] == one["seeds"][1] else f"{one['seeds'][0]} of {one['seeds'][1]}",
        str(one["tried"]),
        *([f'<div class="wide">{escape(one["adapter"]) or "-"}</div>'] if adapter else []),
    ]


@functools.cache
def _packed(package: str, name: str) -> str:
    """Return a file of an installed package, gzipped and in base64, without an import: itables would import pandas."""
    found = importlib.util.find_spec(package)
    assert found and found.submodule_search_locations, package
    content = Path(found.submodule_search_locations[0], name).read_bytes()
    return base64.b64encode(gzip.compress(content, 6, mtime=0)).decode()
