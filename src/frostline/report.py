"""Everything that is drawn: the plan, the progress of runs, the table of a sweep, and the confusion picture."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, Progress, Task, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from frostline.verdict import SECONDS, TEST, VAL, Cell, Result, cells, percent, value_text, varying

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes

    from frostline.plan import PhasePlan, Plan, StagePlan

_PARAMETERS = "cost/trainable_parameters"


class Screen:
    """Owner of the terminal: tables and lines, and below them one progress display that leaves nothing behind.

    Where the output is not a terminal only tables and lines are written.
    """

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(markup=False, highlight=False, emoji=False)
        self._live = self.console.is_interactive and self.console.file.isatty()
        self._started: float | None = None
        self._bars: _Bars | None = None

    def say(self, text: str, style: str = "") -> None:
        """Print `text`, wrapped between words on a terminal and as one line elsewhere."""
        self.console.print(Text(text, style), soft_wrap=not self._live)

    def plan(self, plan: Plan) -> None:
        """Print what a run is about to do: a header of facts, then a table of what learns in each phase and stage."""
        self.say(plan.name, "bold")
        self.console.print(_facts(plan))
        self.console.print(_plan_table(plan))

    @contextmanager
    def run(self, name: str, *, job: int, jobs: int, epochs: int) -> Iterator[None]:
        """Show the progress of a run, the `job`-th (0-based) of `jobs`, for as long as the block lasts."""
        self.say(f"[{job + 1}/{jobs}] {name}" if jobs > 1 else name, "bold")
        self._started = self._started or time.monotonic()
        self._bars = _Bars(self.console, job, jobs, epochs, self._started, shown=self._live)
        try:
            with self._bars.progress:
                yield
        finally:
            self._bars = None

    def advance(self, epochs: float) -> None:
        """Set the bars to `epochs` finished epochs of the run; a fraction stands for a part of the next one."""
        if self._bars is not None:
            self._bars.advance(epochs)

    def epoch(
        self,
        *,
        epoch: int,
        epochs: int,
        phase: str,
        train_loss: float,
        train_accuracy: float,
        val_loss: float,
        val_accuracy: float,
        seconds: float,
    ) -> None:
        """Print the line of a finished epoch (1-based; accuracies as fractions; `phase` may be empty) and advance."""
        self.advance(epoch)
        self.say(
            f"  epoch {epoch:>{len(str(epochs))}}/{epochs}{phase and f'  {phase}'}"
            f"  train {train_loss:.4f} {percent(train_accuracy):>7}"
            f"  val {val_loss:.4f} {percent(val_accuracy):>7}  {duration(seconds)}"
        )

    def table(self, results: Sequence[Result]) -> None:
        """Print a sweep's cells, best first by validation accuracy, then a line for every run that did not finish."""
        done = [cell for cell in cells(results) if cell.finished]
        if done:
            self.console.print(_cells_table(done, varying(results)))
        for result in sorted(results, key=lambda result: result.job):
            if result.status != "FINISHED":
                self.say(_unfinished(result))


class _Bars:
    """The bar of a run and, where it is one of several, above it the bar of the sweep."""

    def __init__(
        self, console: Console, job: int, jobs: int, epochs: int, sweep_started: float, *, shown: bool
    ) -> None:
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[at]}", markup=False),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}", markup=False),
        )
        self.progress = Progress(*columns, console=console, transient=True, expand=True, disable=not shown)
        self._job, self._jobs, self._epochs = job, jobs, epochs
        self._sweep = self.progress.add_task("sweep", total=jobs, at=f"run {job + 1}/{jobs}", left="", visible=jobs > 1)
        self.progress.tasks[0].start_time = sweep_started
        self._run = self.progress.add_task("run", total=epochs, at="", left="")
        self.advance(0)

    def advance(self, epochs: float) -> None:
        at = f"epoch {min(int(epochs) + 1, self._epochs)}/{self._epochs}"
        done = self._job + min(epochs / self._epochs, 1)
        run, sweep = self.progress.tasks[1], self.progress.tasks[0]
        self.progress.update(self._run, completed=epochs, at=at, left=_left(run, epochs / self._epochs))
        self.progress.update(self._sweep, completed=done, left=_left(sweep, done / self._jobs))


def _left(task: Task, share: float) -> str:
    """Return the time left at the pace so far, once there is a pace."""
    return f"{duration((task.elapsed or 0) * (1 - share) / share)} left" if 0 < share < 1 else ""


def duration(seconds: float) -> str:
    """Return a time for people: `0.8s`, `42s`, `3m05s` or `2h07m`."""
    if seconds < 59.5:
        return f"{seconds:.1f}s" if seconds < 9.95 else f"{seconds:.0f}s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}m{rest:02d}s" if minutes < 60 else f"{minutes // 60}h{minutes % 60:02d}m"


def confusion_picture(matrix: np.ndarray, classes: Sequence[str], path: Path) -> None:
    """Write `matrix`, `(C, C)` counts with a row per true class, as a PNG whose size grows with C.

    Colour is the share of the row, on a scale (power 0.4) that shows rare confusions too; up to 25 classes the
    counts are written into the cells.
    """
    from matplotlib.figure import Figure

    side = _picture_side(len(classes))
    figure = Figure(figsize=(side + 1.5, side), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")  # a class name that the font cannot write
        _draw_matrix(axes, matrix)
        _label(axes, matrix, classes)
        figure.savefig(path)


def _facts(plan: Plan) -> Table:
    """Return the header of a plan: one row per kind of fact."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="cyan", no_wrap=True)
    grid.add_column()
    images = ", ".join(f"{count:,} {split}" for split, count in plan.images.items())
    learning = f"{_millions(plan.parameters)} parameters, {_millions(plan.trainable_parameters)} learn"
    exact = "deterministic" if plan.deterministic else "not deterministic"
    grid.add_row("model", f"{plan.model} from {plan.weights}, {learning}")
    grid.add_row("training", f"{plan.freeze_mode}, {plan.optimizer}, {plan.schedule}, augment {plan.augment}")
    grid.add_row("data", f"{plan.data}, {images} images, {len(plan.classes)} classes ({_some(plan.classes)})")
    grid.add_row("input", f"{plan.image_size}x{plan.image_size} pixels, batches of {plan.batch_size}")
    grid.add_row("device", f"{plan.device}, {plan.precision}, {exact}")
    return grid


def _plan_table(plan: Plan) -> Table:
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


def _cells_table(ranked: list[Cell], swept: list[str]) -> Table:
    names = ["freeze_mode", *(name for name in swept if name not in ("freeze_mode", "seed"))]
    table = Table(box=SIMPLE_HEAD)
    for name in names:
        table.add_column(name, no_wrap=name == "freeze_mode")
    several = any(len(cell.results) > 1 for cell in ranked)
    for heading in (*(["seeds"] if several else []), "val", "test", "learn", "time"):
        table.add_column(heading, justify="right", no_wrap=True)
    for index, cell in enumerate(ranked):
        chosen = [value_text(cell.choices.get(name)) for name in names]
        costs = [_millions(cell.mean(_PARAMETERS)), _or_dash(cell.mean(SECONDS), duration)]
        chosen += [_seeds(cell)] if several else []
        table.add_row(*chosen, _accuracy(cell, VAL), _accuracy(cell, TEST), *costs, style="" if index else "bold")
    return table


def _seeds(cell: Cell) -> str:
    finished, all_of_them = len(cell.finished), len(cell.results)
    return str(finished) if finished == all_of_them else f"{finished} of {all_of_them}"


def _accuracy(cell: Cell, metric: str) -> str:
    """Return the mean over the seeds, with their standard deviation where there are several."""
    mean, spread = cell.mean(metric), cell.spread(metric)
    return _or_dash(mean, percent) + (f" ±{100 * spread:.2f}" if spread is not None else "")


def _unfinished(result: Result) -> str:
    why = f": {result.reason}" if result.reason else ""
    return f"  {result.status.lower()}  {result.name}{why}" + (f" ({result.folder})" if result.folder else "")


def _or_dash(value: float, text: Any) -> str:
    return "-" if math.isnan(value) else str(text(value))


def _millions(count: float) -> str:
    if math.isnan(count):
        return "-"
    return f"{count / 1e6:.2f}M" if count >= 1e6 else f"{count / 1e3:.1f}k" if count >= 1e4 else f"{count:,.0f}"


def _some(classes: Sequence[str]) -> str:
    """Return the first few class names."""
    return ", ".join(classes[:10]) + (", ..." if len(classes) > 10 else "")


def _picture_side(count: int) -> float:
    """Return the side in inches at which labels of 5 to 10 points do not touch."""
    return max(4.5, 2.0 + count * (0.34 if count <= 25 else 0.12))


def _draw_matrix(axes: Axes, matrix: np.ndarray) -> None:
    """Draw the share of each row in colour, and the counts where there is room."""
    from matplotlib.colors import PowerNorm

    totals = matrix.sum(axis=1, keepdims=True)
    share = matrix / totals.clip(min=1)
    norm = PowerNorm(0.4, 0.0, 1.0)
    image = axes.imshow(share, cmap="Blues", norm=norm, interpolation="nearest")
    bar = axes.figure.colorbar(image, ax=axes, fraction=0.03, aspect=30, ticks=[0, 0.01, 0.05, 0.2, 0.5, 1])
    bar.set_label("share of the true class")
    bar.ax.set_yticklabels(["0", "1%", "5%", "20%", "50%", "100%"])
    if len(matrix) > 25:
        return
    for row, column in zip(*matrix.nonzero(), strict=True):
        ink = "white" if norm(share[row, column]) > 0.55 else "black"
        axes.text(column, row, f"{matrix[row, column]}", ha="center", va="center", color=ink, fontsize=8)


def _label(axes: Axes, matrix: np.ndarray, classes: Sequence[str]) -> None:
    """Write class names, axis names and a title with the top-1 accuracy."""
    count, total, right = len(classes), int(matrix.sum()), int(matrix.trace())
    names = [name if len(name) <= 24 else f"{name[:22]}.." for name in classes]
    size = 9 if count <= 25 else 6
    flat = max(map(len, names), default=0) * count <= 50
    axes.set_xticks(range(count), names, rotation=0 if flat else 90, fontsize=size, parse_math=False)
    axes.set_yticks(range(count), names, fontsize=size, parse_math=False)
    axes.set_xlabel("predicted class")
    axes.set_ylabel("true class")
    axes.set_title(f"top-1 accuracy {percent(right / max(total, 1))} ({right:,} of {total:,})")
