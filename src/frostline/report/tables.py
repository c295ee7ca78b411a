"""Tables of the terminal: the plan of a run, the entries of the store; widths of tables, and durations as text."""

from __future__ import annotations

import math
from collections.abc import Container, Iterable, Iterator, Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.console import Console
from rich.measure import Measurement
from rich.table import Column, Table
from rich.text import Text

from frostline.core.errors import first_few
from frostline.core.metrics import ACCURACY
from frostline.records.result import size

if TYPE_CHECKING:
    from frostline.runs.plan import PhasePlan, Plan, StagePlan
    from frostline.store.entries import Item


def facts(plan: Plan, *, unlike: Plan | None = None) -> Table:
    """Return the header of a plan, one row per fact; with `unlike`, only the facts that differ from that plan."""
    known = {*_facts(unlike)} if unlike else set()
    return grid(row for row in _facts(plan) if row not in known)


def grid(rows: Iterable[tuple[str, str]]) -> Table:
    """Return facts, as pairs of a heading and a text, as a table without borders."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="cyan", no_wrap=True)
    table.add_column()
    for about, said in rows:
        table.add_row(about, Text(said))
    return table


def ruled(headings: Sequence[str], rows: Iterable[Sequence[str]], *, left: Container[str]) -> Table:
    """Return a table of texts under `headings`; the columns in `left` are words, all others numbers, never wrapped."""
    table = Table(box=SIMPLE_HEAD, collapse_padding=True)
    for heading in headings:
        words = heading in left
        table.add_column(Text(heading), justify="left" if words else "right", no_wrap=not words, overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    return table


def _facts(plan: Plan) -> Iterator[tuple[str, str]]:
    images = ", ".join(f"{count:,} {split}" for split, count in plan.images.items())
    learning = f"{millions(plan.parameters)} parameters, {millions(plan.trainable_parameters)} learn"
    exact = "deterministic" if plan.deterministic else "not deterministic"
    yield ("model", f"{plan.model} from {plan.weights}, {learning}")
    if plan.loaded:
        yield ("weights", plan.loaded)
    how = f"{plan.optimizer}, {plan.schedule}, augment {plan.augment}" if plan.optimizer else "solved at once"
    loss = f", {plan.loss}" if plan.loss else ""
    yield ("training", f"{plan.freeze_mode}, {how}{loss}")
    if plan.select != ACCURACY.epoch:
        yield ("selected by", plan.select)
    if plan.adapter:
        yield ("adapter", plan.adapter)
    each = ", any number of them in an image" if plan.multi_label else ""
    classes = f"{len(plan.classes)} classes ({first_few(plan.classes, most=10)}){each}"
    yield ("data", f"{plan.data}, {images} images, {classes}")
    seen = f"{plan.image_size}x{plan.image_size} pixels of {plan.resized}, {plan.interpolation}"
    whole = ", one per epoch" if plan.batch_size > plan.images["train"] else ""
    yield ("input", f"{seen}; batches of {plan.batch_size}{whole}" if plan.optimizer else seen)
    if plan.cut_from:
        yield ("crops", f"cut from {plan.cut_from}")
    yield ("device", f"{plan.device}, {plan.precision}, {exact}")


def plan_table(plan: Plan) -> Table:
    """Return a table with a row per phase and stage: learning parameters, lr, weight decay, and mode of norm layers."""
    table = Table(box=SIMPLE_HEAD)
    for heading, justify in (("epochs", "left"), ("stage", "left"), ("parameters", "right"), ("learn", "right")):
        table.add_column(heading, justify=justify, no_wrap=True)  # type: ignore[arg-type]
    for heading in ("lr", "weight decay", "norm"):
        table.add_column(heading, no_wrap=heading != "weight decay")
    for phase in plan.phases:
        for index, stage in enumerate(phase.stages):
            last = index == len(phase.stages) - 1
            table.add_row(_epochs(phase) if index == 0 else "", *_stage_row(stage), end_section=last)
    return table


def stages_unlike(plan: Plan, other: Plan) -> list[str] | None:
    """Return a line per stage whose lr or weight decay differs from another plan.

    None if more than half of the stages differ, or if the plans differ in other columns.
    """
    mine, theirs = (
        [
            (_epochs(phase), *(cell.plain for cell in _stage_row(stage)))
            for phase in each.phases
            for stage in phase.stages
        ]
        for each in (plan, other)
    )
    pairs = [*zip(mine, theirs, strict=False)]
    if len(mine) != len(theirs) or any(one[:4] != before[:4] or one[6] != before[6] for one, before in pairs):
        return None
    found = [f"{one[1]}: lr {one[4]}, weight decay {one[5]}" for one, before in pairs if one != before]
    return None if 2 * len(found) > len(mine) else found


def _epochs(phase: PhasePlan) -> str:
    same = phase.first_epoch == phase.last_epoch
    return str(phase.first_epoch) if same else f"{phase.first_epoch}-{phase.last_epoch}"


def _stage_row(stage: StagePlan) -> list[Text]:
    """Return the row of one stage; a frozen stage is dim."""
    learn = "all" if stage.learning == stage.parameters else f"{stage.learning:,}" if stage.learning else "-"
    row = (stage.stage, f"{stage.parameters:,}", learn, _span(stage.lr), _span(stage.weight_decay), stage.norm)
    return [Text(text, "" if stage.learning else "dim") for text in row]


def _span(values: tuple[float, float] | None) -> str:
    if values is None:
        return "-"
    low, high = values
    return f"{low:g}" if low == high else f"{low:.2g}..{high:.2g}"


def millions(count: float) -> str:
    """Return a number of parameters as short text, e.g. `11.18M`; a dash for nan."""
    if math.isnan(count):
        return "-"
    return f"{count / 1e6:.2f}M" if count >= 1e6 else f"{count / 1e3:.1f}k" if count >= 1e4 else f"{count:,.0f}"


def width(table: Table) -> int:
    """Return the width of a table in characters if nothing limits it."""
    console = Console(width=10_000, height=1)  # without a height, TERM=dumb means 80 columns
    return Measurement.get(console, console.options, table).maximum


def least_width(table: Table) -> int:
    """Return the least width in characters at which no column is cut; names may be folded."""
    return sum(map(_needed, table.columns)) + 2 * len(table.columns) + 1


def _needed(column: Column) -> int:
    texts = [str(text) for text in (column.header, *column.cells)]
    whole = texts if column.no_wrap else [word for text in texts for word in text.split()]
    return column.min_width or max(map(cell_len, whole), default=0)


def as_lines(table: Table) -> Iterator[str]:
    """Yield the rows of a table as lines of text, each value after its heading, for terminals that are too narrow."""
    headings = [str(column.header) for column in table.columns]
    for row in zip(*(column.cells for column in table.columns), strict=True):
        pairs = zip(headings, map(str, row), strict=True)
        yield "  " + ", ".join(f"{heading} {text}" for heading, text in pairs if text)


def duration(seconds: float) -> str:
    """Return a duration as short text: `0.04s`, `0.8s`, `42s`, `3m05s` or `2h07m`."""
    if 0.005 <= seconds < 0.095:
        return f"{seconds:.2f}s"
    if seconds < 59.5:
        return f"{seconds:.1f}s" if seconds < 9.95 else f"{seconds:.0f}s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}m{rest:02d}s" if minutes < 60 else f"{minutes // 60}h{minutes % 60:02d}m"


def store_table(items: Sequence[Item]) -> Table:
    """Return a table with a row per entry of the store, in the order given."""
    rows = (
        (
            item.kind,
            item.about or "(damaged)",
            size(item.size),
            datetime.fromtimestamp(item.used).strftime("%Y-%m-%d %H:%M") if item.used else "-",
        )
        for item in items
    )
    return ruled(("kind", "what", "size", "last used"), rows, left=("kind", "what"))
