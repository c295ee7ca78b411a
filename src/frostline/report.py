"""Everything that is drawn: the plan, the progress of runs, the table of a sweep, and the confusion picture."""

from __future__ import annotations

import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, Progress, Task, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from frostline.results import Result, cells, percent, varying
from frostline.tables import cells_table, duration, facts, plan_table, unfinished, width

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes

    from frostline.plan import Plan


_INTERVAL = 0.1  # seconds between two drawings of a bar


class _Terminal(Console):
    """A console whose reader may leave, as in `| head`: the run goes on in silence instead of ending."""

    def on_broken_pipe(self) -> None:
        """Send what is still to be written to nobody."""
        self.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class Screen:
    """Owner of the terminal: tables and lines, and below them one progress display that leaves nothing behind.

    Where the output is not a terminal only tables and lines are written.
    """

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or _Terminal(markup=False, highlight=False, emoji=False)
        self._live = self.console.is_interactive and self.console.file.isatty()
        self._started: float | None = None
        self._bars: _Bars | None = None

    def say(self, text: str, style: str = "") -> None:
        """Print `text`, wrapped between words on a terminal and as one line elsewhere."""
        self.console.print(Text(text, style), soft_wrap=not self._live)

    def verdict(self, text: str) -> None:
        """Print an answer, a sentence to a line, so that its commands can be copied."""
        for sentence in text.replace(". ", ".\n").split("\n"):
            self.say(sentence)

    def plan(self, plan: Plan) -> None:
        """Print what a run is about to do: a header of facts, then a table of what learns in each phase and stage."""
        self.console.print(facts(plan))
        self.console.print(plan_table(plan))

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

    @contextmanager
    def progress(self, what: str, total: int) -> Iterator[Callable[[int], None]]:
        """Show how much of `total` is done for as long as the block lasts; it is told how many more were done."""
        within = self._bars.progress if self._bars is not None else None
        bars = within or _progress(self.console, shown=self._live)
        task = bars.add_task(what, total=total, at=f"0/{total:,}", left="")

        def advance(count: int) -> None:
            done = bars.tasks[bars.task_ids.index(task)]
            bars.update(task, advance=count, at=f"{int(done.completed) + count:,}/{total:,}")
            bars.update(task, left=_left(done, done.completed / total))

        with bars if within is None else nullcontext():
            yield advance
        bars.remove_task(task)

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
            self._whole(cells_table(done, varying(results), limit=self.console.width if self._live else None))
        for result in sorted(results, key=lambda result: result.job):
            if result.status != "FINISHED":
                self.say(unfinished(result))

    def _whole(self, table: Table) -> None:
        """Print a table; where the output is not a terminal nothing limits its width."""
        before = self.console.width
        if not self._live:
            self.console.width = max(before, width(table))
        self.console.print(table)
        self.console.width = before


class _Bars:
    """The bar of a run and, where it is one of several, above it the bar of the sweep."""

    def __init__(
        self, console: Console, job: int, jobs: int, epochs: int, sweep_started: float, *, shown: bool
    ) -> None:
        self.progress = _progress(console, shown=shown)
        self._job, self._jobs, self._epochs = job, jobs, epochs
        self._shown, self._next = shown, 0.0
        self._sweep = self.progress.add_task("sweep", total=jobs, at=f"run {job + 1}/{jobs}", left="", visible=jobs > 1)
        self.progress.tasks[0].start_time = sweep_started
        self._run = self.progress.add_task("run", total=epochs, at="", left="")
        self.advance(0)

    def advance(self, epochs: float) -> None:
        """Move the bars; within an epoch not more often than they are drawn, since steps may take less."""
        now = time.monotonic()
        if not self._shown or (epochs % 1 and now < self._next):
            return
        self._next = now + _INTERVAL
        at = f"epoch {min(int(epochs) + 1, self._epochs)}/{self._epochs}"
        done = self._job + min(epochs / self._epochs, 1)
        run, sweep = self.progress.tasks[1], self.progress.tasks[0]
        self.progress.update(self._run, completed=epochs, at=at, left=_left(run, epochs / self._epochs))
        self.progress.update(self._sweep, completed=done, left=_left(sweep, done / self._jobs))


def _progress(console: Console, *, shown: bool) -> Progress:
    """Return a display whose tasks have two fields, `at` and `left`; it leaves nothing behind."""
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=None),
        TextColumn("{task.fields[at]}", markup=False),
        TimeElapsedColumn(),
        TextColumn("{task.fields[left]}", markup=False),
    )
    return Progress(*columns, console=console, transient=True, expand=True, disable=not shown)


def _left(task: Task, share: float) -> str:
    """Return the time left at the pace so far, once there is a pace."""
    return f"{duration((task.elapsed or 0) * (1 - share) / share)} left" if 0 < share < 1 else ""


def confusion_picture(matrix: np.ndarray, classes: Sequence[str], path: Path) -> None:
    """Write `matrix`, `(C, C)` counts with a row per true class, as a PNG whose size grows with C.

    Colour is the share of the row, on a scale (power 0.4) that shows rare confusions too; up to 25 classes the
    counts are written into the cells.
    """
    from matplotlib.figure import Figure

    side = _picture_side(len(classes))
    left, bottom = _room(classes)
    width, height = left + side + 1.3, bottom + side + 0.5
    figure = Figure(figsize=(width, height), dpi=120)
    axes = figure.add_axes((left / width, bottom / height, side / width, side / height))
    scale = figure.add_axes(((left + side + 0.2) / width, bottom / height, 0.15 / width, side / height))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")  # a class name that the font cannot write
        _draw_matrix(axes, scale, matrix)
        _label(axes, matrix, classes)
        figure.savefig(path, pil_kwargs={"compress_level": 1})


def _picture_side(count: int) -> float:
    """Return the side of the matrix in inches at which labels of 5 to 10 points do not touch."""
    return max(3.9, 1.0 + count * (0.34 if count <= 25 else 0.12))


def _room(classes: Sequence[str]) -> tuple[float, float]:
    """Return the inches left of the matrix and below it that its labels need.

    Counted in letters: a layout that measures text draws everything twice, and this is drawn at the end of every run.
    """
    longest = max(len(_shortened(name)) for name in classes) * _label_size(classes) * 0.65 / 72
    return 0.6 + longest, 0.6 + (0.15 if _flat(classes) else longest)


def _draw_matrix(axes: Axes, scale: Axes, matrix: np.ndarray) -> None:
    """Draw the share of each row in colour, and the counts where there is room."""
    from matplotlib.colors import PowerNorm

    totals = matrix.sum(axis=1, keepdims=True)
    share = matrix / totals.clip(min=1)
    norm = PowerNorm(0.4, 0.0, 1.0)
    image = axes.imshow(share, cmap="Blues", norm=norm, interpolation="nearest")
    bar = axes.figure.colorbar(image, cax=scale, ticks=[0, 0.01, 0.05, 0.2, 0.5, 1])
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
    names, size = [_shortened(name) for name in classes], _label_size(classes)
    axes.set_xticks(range(count), names, rotation=0 if _flat(classes) else 90, fontsize=size, parse_math=False)
    axes.set_yticks(range(count), names, fontsize=size, parse_math=False)
    axes.set_xlabel("predicted class")
    axes.set_ylabel("true class")
    axes.set_title(f"top-1 accuracy {percent(right / max(total, 1))} ({right:,} of {total:,})")


def _shortened(name: str) -> str:
    return name if len(name) <= 24 else f"{name[:22]}.."


def _label_size(classes: Sequence[str]) -> int:
    """Return the size of class names in points."""
    return 9 if len(classes) <= 25 else 6


def _flat(classes: Sequence[str]) -> bool:
    """Return whether all class names fit beside each other below the matrix."""
    return max(len(_shortened(name)) for name in classes) * len(classes) <= 50
