"""The outcome of a sweep: what the terminal shows, the report page, and plots.

Each function imports what it needs, since a sweep has another process call it: see `closing.close`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from frostline.records import layout
from frostline.records.recording import Record
from frostline.records.result import Result

if TYPE_CHECKING:
    from rich.table import Table


def summary(results: Sequence[Result], *, limit: int | None = None) -> tuple[list[Table | str], str]:
    """Return the tables and lines that the terminal shows, the table of cells at most `limit` wide, and the verdict."""
    from frostline.report.result_tables import rows
    from frostline.report.verdict import answer

    return [*rows(results, limit=limit)], answer(results)


def write_page(folder: Path, results: Sequence[Result], *, tracker: Mapping[str, str]) -> Path:
    """Write the report page of the sweep in `folder`, make it an artifact of the sweep, and return its path."""
    from frostline.report import html

    title = f"Sweep {folder.parent.name} {folder.name}"
    page = html.write(folder / layout.REPORT, results, title=title, tracker=tracker)
    Record(folder).artifact(page)
    return page


def draw_plots(folder: Path, results: Sequence[Result]) -> list[Path]:
    """Draw the plots of the sweep in `folder`, make them artifacts of the sweep, and return their paths.

    A sweep of one run gets none: they would show no more than the report.
    """
    from frostline.report import plots

    drawn = plots.write(folder / layout.PLOTS, results) if len(results) > 1 else []
    for file in drawn:
        Record(folder).artifact(file, layout.PLOTS)
    return drawn
