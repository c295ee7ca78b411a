"""The HTML report: one file that contains its data and its libraries, and opens offline by a double click.

The page embeds plotly (charts) and DataTables (tables, from itables), compressed with gzip, which browsers can
decompress since 2023.
"""

from __future__ import annotations

import base64
import functools
import gzip
import importlib.util
import math
import re
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from frostline.core import files
from frostline.core.config_keys import differing
from frostline.core.metrics import ACCURACY, Metric
from frostline.records.result import SECONDS, Result, number_of, value_text
from frostline.report import adapter_words, backbones, page_assets, page_data, search_page
from frostline.report.cell_intervals import test_interval
from frostline.report.cells import Cell, runs_heading
from frostline.report.contest import Contest, contests
from frostline.report.paired_difference import Difference
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
    found = contests(results)
    data = page_data.collect(results, found, page=path, tracker=tracker, scratch=scratch)
    text = page_assets.template("page.html").substitute(
        title=escape(title),
        about=escape(_about(results)),
        style=page_assets.text("page.css"),
        verdicts="\n".join(_verdict(number, group) for number, group in enumerate(data["groups"])),
        contenders="\n".join(_contenders(number, contest, data) for number, contest in enumerate(found)),
        grids="\n".join(_grid(number, contest) for number, contest in enumerate(found)),
        search=search_page.section(found, data["key"]),
        data=page_assets.script_json(data),
        plotly=_packed("plotly", "package_data/plotly.min.js"),
        tables=_packed("itables", "html/dt_bundle.js"),
        tables_style=_packed("itables", "html/dt_bundle.css"),
        script=page_assets.text("page.js") + search_page.script(found),
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


def _contenders(number: int, contest: Contest, data: Mapping[str, Any]) -> str:
    """Return the table of the best cells; with the verdict, all that a reader without JavaScript sees."""
    found, by, group = contest.contenders, contest.by, data["groups"][number]
    if not found:
        return ""
    columns = _columns(contest, data["key"], group)
    rows = [[*row] for row in zip(*(texts for _, texts in columns), strict=True)]
    if (largest := contest.baseline) and not math.isnan(value := largest.value(by)):
        always = f'<span class="quiet">always {escape(largest.name)}, the largest class</span>'
        rows.append([always, by.text(value), *[""] * (len(columns) - 2)])
    heads = [(escape(name), name not in ("", "adapter")) for name, _ in columns]
    multi_label = by == ACCURACY and any("f1" in one for one in group["contenders"])
    note = '<p class="quiet">Accuracy counts the images whose classes are all right.</p>' if multi_label else ""
    return page_assets.of_group(number, page_assets.table(heads, rows) + note)


def _columns(contest: Contest, key: str, group: Mapping[str, Any]) -> list[tuple[str, list[str]]]:
    """Return the columns of that table: a heading, and a text for each contender as HTML."""
    found, by, is_search = contest.contenders, contest.by, bool(contest.studies)
    cells, text = [one.cell for one in found], short_text if is_search else value_text
    seconds = [cell.mean(SECONDS) for cell in cells]
    tried = [{name: value for name, value in cell["at"].items() if value is not None} for cell in group["cells"]]
    keys = differing(tried)  # of this group: a key that tells the groups apart has one value here
    values = {name: [cell.choices.get(name) for cell in cells] for name in keys}
    adapters = [adapter_words.full(cell.finished[0]) for cell in cells]
    behind = [lead for lead in (contest.difference, *(lead for _, lead in contest.others)) if lead]
    wide = [f'<div class="wide">{escape(adapter) or "-"}</div>' for adapter in adapters]
    return [
        ("", [page_assets.swatch(value_text(one.cell.choices.get(key)), one.name) for one in found]),
        ("test" if by == ACCURACY else f"test {by.words}", [by.text(cell.mean(by.test)) for cell in cells]),
        ("95% interval", [by.span(one.interval.low, one.interval.high) if one.interval else "-" for one in found]),
        ("behind the first", ["", *(_difference(one, by, signed=False) for one in behind)]),
        ("validation", [by.text(cell.mean(by.val)) for cell in cells]),
        ("time (s)", ["-" if math.isnan(one) else f"{one:.3g}" for one in seconds]),
        *((name, ["-" if one is None else escape(text(one)) for one in own]) for name, own in values.items()),
        (runs_heading(cells), [cell.finished_text for cell in cells]),
        ("trials" if is_search else "cells tried", [str(one.tried) for one in found]),
        *([("adapter", wide)] if any(adapters) else []),
    ]


def _grid(number: int, contest: Contest) -> str:
    """Return the table of backbones by freeze modes; empty if there is only one backbone or one mode."""
    if (found := backbones.grid(contest)) is None:
        return ""
    by, best = contest.by, next(iter(found.cells))
    rows = []
    for model in found.models:
        scores = [_score(found.cells.get((model, mode)), best=(model, mode) == best) for mode in found.modes]
        rows.append([escape(model), *scores, _difference(found.of_modes(model), by)])
    gains = [_difference(found.of_models(mode), by) for mode in found.modes]
    rows.append([f'<span class="quiet">{escape(" against ".join(found.models[:2]))}</span>', *gains, ""])
    heads = [*(page_assets.swatch(mode, mode) for mode in found.modes), escape(" against ".join(found.modes[:2]))]
    table = page_assets.table([("", False), *((name, True) for name in heads)], rows)
    return page_assets.of_group(number, f"<h3>Backbones and freeze modes, test {by.words}</h3>{table}")


def _score(cell: Cell | None, *, best: bool) -> str:
    """Return the test score of a cell, with its interval as a tooltip; a dash if it is not known."""
    if cell is None or math.isnan(mean := cell.mean(cell.by.test)):
        return "-"
    text, within = cell.by.text(mean, 1), test_interval(cell)
    title = cell.by.span(within.low, within.high) if within else ""
    return f'<span title="{title}">{f"<strong>{text}</strong>" if best else text}</span>'


def _difference(found: Difference | None, by: Metric, *, signed: bool = True) -> str:
    """Return a difference with its interval, and how that was computed as a tooltip; a dash if it is not known.

    Without being `signed`, a positive one has no plus, as under a heading that says who is ahead.
    """
    text = backbones.difference_text(found, by).removeprefix("" if signed else "+")
    return f'<span title="{escape(found.how)}">{text}</span>' if found else text


@functools.cache
def _packed(package: str, name: str) -> str:
    """Return a file of an installed package, gzipped and in base64, without an import: itables would import pandas."""
    found = importlib.util.find_spec(package)
    assert found and found.submodule_search_locations, package
    content = Path(found.submodule_search_locations[0], name).read_bytes()
    return base64.b64encode(gzip.compress(content, 6, mtime=0)).decode()
