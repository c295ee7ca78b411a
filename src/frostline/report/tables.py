"""The tables of the terminal: what a run is about to do, and what a sweep came to."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.console import Console
from rich.measure import Measurement
from rich.table import Column, Table
from rich.text import Text

from frostline.core.metrics import ACCURACY
from frostline.records import cluster_jobs
from frostline.records.result import ADAPTER_PARAMETERS, PARAMETERS, SECONDS, Result, size, value_text
from frostline.report import adapter_words
from frostline.report.cells import REPEATS, Cell
from frostline.report.studies import short_text

if TYPE_CHECKING:
    from frostline.report.backbones import Grid
    from frostline.report.paired_difference import Difference
    from frostline.report.pareto import Front
    from frostline.runs.plan import PhasePlan, Plan, StagePlan
    from frostline.store.entries import Item


def facts(plan: Plan, *, unlike: Plan | None = None) -> Table:
    """Return the header of a plan: one row per kind of fact, of those that it has `unlike` another plan if given."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="cyan", no_wrap=True)
    grid.add_column()
    known = {*_facts(unlike)} if unlike else set()
    for row in _facts(plan):
        if row not in known:
            grid.add_row(*row)
    return grid


def _facts(plan: Plan) -> Iterator[tuple[str, str]]:
    """Yield the kinds of facts of a plan, and what is said of each."""
    images = ", ".join(f"{count:,} {split}" for split, count in plan.images.items())
    learning = f"{_millions(plan.parameters)} parameters, {_millions(plan.trainable_parameters)} learn"
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
    yield ("data", f"{plan.data}, {images} images, {len(plan.classes)} classes ({_some(plan.classes)}){each}")
    seen = f"{plan.image_size}x{plan.image_size} pixels of {plan.resized}, {plan.interpolation}"
    yield ("input", f"{seen}; batches of {plan.batch_size}" if plan.optimizer else seen)
    if plan.cut_from:
        yield ("crops", f"cut from {plan.cut_from}")
    yield ("device", f"{plan.device}, {plan.precision}, {exact}")


def plan_table(plan: Plan) -> Table:
    """Return a row per phase and stage: what learns there, how fast, and what its norm layers do."""
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
    """Return in a line each how few stages learn otherwise than in another plan; None where most do, or other ones."""
    mine, theirs = ([row for phase in each.phases for row in _rows(phase)] for each in (plan, other))
    pairs = [*zip(mine, theirs, strict=False)]
    if len(mine) != len(theirs) or any(one[:4] != before[:4] or one[6] != before[6] for one, before in pairs):
        return None
    found = [f"{one[1]}: lr {one[4]}, weight decay {one[5]}" for one, before in pairs if one != before]
    return None if 2 * len(found) > len(mine) else found


def _rows(phase: PhasePlan) -> list[tuple[str, ...]]:
    return [(_epochs(phase), *(cell.plain for cell in _stage_row(stage))) for stage in phase.stages]


def _epochs(phase: PhasePlan) -> str:
    same = phase.first_epoch == phase.last_epoch
    return str(phase.first_epoch) if same else f"{phase.first_epoch}-{phase.last_epoch}"


def _stage_row(stage: StagePlan) -> list[Text]:
    """Return the cells of one stage; a stage that does not learn is dim."""
    learn = "all" if stage.learning == stage.parameters else f"{stage.learning:,}" if stage.learning else "-"
    row = (stage.stage, f"{stage.parameters:,}", learn, _span(stage.lr), _span(stage.weight_decay), stage.norm)
    return [Text(text, "" if stage.learning else "dim") for text in row]


def _span(values: tuple[float, float] | None) -> str:
    if values is None:
        return "-"
    low, high = values
    return f"{low:g}" if low == high else f"{low:.2g}..{high:.2g}"


def cells_table(ranked: list[Cell], swept: list[str], *, limit: int | None = None) -> Table:
    """Return a row per cell, in the order given: the `swept` choices, what it came to over its seeds, and costs.

    Where it would be wider than `limit` the costs are left out, and at last names are folded; None is any width.
    """
    columns = _columns(ranked, swept)
    table = _cells_table(columns)
    for cost in ("adapter", "learn", "time"):
        if limit is not None and cost in columns and width(table) > limit:
            del columns[cost]
            table = _cells_table(columns)
    return table


def pairs_table(pairs: Grid) -> Table:
    """Return a row per backbone and a column per freeze mode: what the best cell of the pair came to on the test split.

    The last column is what the first mode is before the second, and the last row the first backbone before the second.
    """
    from frostline.report.backbones import difference_text

    def gap(found: Difference | None) -> str:
        return difference_text(found, by) if found else "-"

    by = next(iter(pairs.cells.values())).by
    named = "" if by == ACCURACY else f" {by.words}"
    table = Table(box=SIMPLE_HEAD, collapse_padding=True)
    for heading in (f"test{named}", *pairs.modes, " - ".join(pairs.modes[:2])):
        table.add_column(heading, justify="left" if heading == f"test{named}" else "right", overflow="fold")
    for model in pairs.models:
        own = [pairs.cells.get((model, mode)) for mode in pairs.modes]
        scores = ["-" if cell is None else _score(cell, by.test) for cell in own]
        table.add_row(*map(Text, (model, *scores, gap(pairs.of_modes(model)))))
    gaps = [gap(pairs.of_models(mode)) for mode in pairs.modes]
    table.add_row(*map(Text, (" - ".join(pairs.models[:2]), *gaps, "")))
    return table


def front_table(found: Front) -> Table:
    """Return a row per trial on the Pareto front, best by the first objective first."""
    table = Table(box=SIMPLE_HEAD, collapse_padding=True)
    for heading in ("Pareto front", "trial", "settings"):
        table.add_column(heading, justify="right" if heading == "trial" else "left", overflow="fold")
    for one in found.objectives:
        table.add_column(one.words, justify="right", overflow="fold")
    for point in found.best:
        settings = " ".join(f"{key}={short_text(value)}" for key, value in point.trial.at.items())
        values = [one.text(value) for one, value in zip(found.objectives, point.values, strict=True)]
        table.add_row(*map(Text, (point.study.name, str(point.trial.number), settings, *values)))
    return table


def _columns(ranked: list[Cell], swept: list[str]) -> dict[str, list[str]]:
    """Return the texts of the table's cells by the heading of their column; numbers from `val` on, or `seeds`."""
    names = ["freeze_mode", *(name for name in swept if name not in ("freeze_mode", *REPEATS))]
    columns = {name: [value_text(cell.choices.get(name, "-")) for cell in ranked] for name in names}
    if any(len(cell.results) > 1 for cell in ranked):
        columns["runs" if ranked[0].folds else "seeds"] = [_seeds(cell) for cell in ranked]
    every = {cell.by for cell in ranked}
    which = f" {ranked[0].by.words}" if len(every) == 1 and every != {ACCURACY} else ""  # of several `select` says it
    columns[f"val{which}"] = [_score(cell, cell.by.val) for cell in ranked]
    columns[f"test{which}"] = [_score(cell, cell.by.test) for cell in ranked]
    if any(ADAPTER_PARAMETERS in result.metrics for cell in ranked for result in cell.finished):
        columns["adapter"] = [adapter_words.short((cell.finished or cell.results)[0]) for cell in ranked]
    columns["learn"] = [_millions(cell.mean(PARAMETERS)) for cell in ranked]
    columns["time"] = [_or_dash(cell.mean(SECONDS), duration) for cell in ranked]
    return columns


def _cells_table(columns: Mapping[str, Sequence[str]]) -> Table:
    table = Table(box=SIMPLE_HEAD, collapse_padding=True)
    for heading, texts in columns.items():
        number = heading in ("runs", "seeds", "learn", "time") or heading.startswith(("val", "test"))
        least = min(12, max(map(len, [heading, *texts])))  # what is longer may be folded, what is shorter stays whole
        table.add_column(heading, justify="right" if number else "left", min_width=least, overflow="fold")
    for index, row in enumerate(zip(*columns.values(), strict=True)):
        table.add_row(*map(Text, row), style="" if index else "bold")
    return table


def _seeds(cell: Cell) -> str:
    finished, all_of_them = len(cell.finished), len(cell.results)
    return str(finished) if finished == all_of_them else f"{finished} of {all_of_them}"


def _score(cell: Cell, metric: str) -> str:
    """Return the mean over the seeds, with their standard deviation where there are several."""
    mean, spread = cell.mean(metric), cell.spread(metric)
    return _or_dash(mean, cell.by.text) + (f" ±{cell.by.number(spread)}" if spread is not None else "")


def unfinished(result: Result) -> str:
    """Return the line on a run that did not finish: which, why, the folder of what is left of it, a cluster's log."""
    why = f": {result.reason}" if result.reason else ""
    job = cluster_jobs.read(Path(result.folder)) if result.folder else None
    log = f"; the log of {job} is {job.log}" if job is not None and job.log not in why else ""
    return f"  {result.status.lower()}  {result.name}{why}" + (f" ({result.folder}{log})" if result.folder else "")


def _or_dash(value: float, text: Callable[[float], str]) -> str:
    return "-" if math.isnan(value) else text(value)


def _millions(count: float) -> str:
    if math.isnan(count):
        return "-"
    return f"{count / 1e6:.2f}M" if count >= 1e6 else f"{count / 1e3:.1f}k" if count >= 1e4 else f"{count:,.0f}"


def _some(classes: Sequence[str]) -> str:
    """Return the first few class names."""
    return ", ".join(classes[:10]) + (", ..." if len(classes) > 10 else "")


def width(table: Table) -> int:
    """Return how many characters wide a table is where nothing limits it."""
    console = Console(width=10_000)
    return Measurement.get(console, console.options, table).maximum


def least_width(table: Table) -> int:
    """Return how many characters wide a table has to be so that no column is cut, folded names aside."""
    return sum(map(_needed, table.columns)) + 2 * len(table.columns) + 1


def _needed(column: Column) -> int:
    texts = [str(text) for text in (column.header, *column.cells)]
    whole = texts if column.no_wrap else [word for text in texts for word in text.split()]
    return column.min_width or max(map(cell_len, whole), default=0)


def as_lines(table: Table) -> Iterator[str]:
    """Yield the rows of a table as text, each value behind its heading, for where it is too wide."""
    headings = [str(column.header) for column in table.columns]
    for row in zip(*(column.cells for column in table.columns), strict=True):
        pairs = zip(headings, map(str, row), strict=True)
        yield "  " + ", ".join(f"{heading} {text}" for heading, text in pairs if text)


def duration(seconds: float) -> str:
    """Return a time for people: `0.8s`, `42s`, `3m05s` or `2h07m`."""
    if seconds < 59.5:
        return f"{seconds:.1f}s" if seconds < 9.95 else f"{seconds:.0f}s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}m{rest:02d}s" if minutes < 60 else f"{minutes // 60}h{minutes % 60:02d}m"


def store_table(items: Sequence[Item]) -> Table:
    """Return a row per entry of the store, in the order given."""
    table = Table(box=SIMPLE_HEAD)
    table.add_column("kind", no_wrap=True)
    table.add_column("what", overflow="fold")
    for heading in ("size", "last used"):
        table.add_column(heading, justify="right", no_wrap=True)
    for item in items:
        used = datetime.fromtimestamp(item.used).strftime("%Y-%m-%d %H:%M") if item.used else "-"
        table.add_row(Text(item.kind), Text(item.about or "(damaged)"), size(item.size), used)
    return table
