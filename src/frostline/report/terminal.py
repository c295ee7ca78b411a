"""Terminal output: plans, progress bars of runs, lines and tables."""

from __future__ import annotations

import functools
import os
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, Progress, Task, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from frostline.core import notices, streams
from frostline.core.metrics import ACCURACY, LOSS, Metric
from frostline.records.result import percent
from frostline.report.tables import as_lines, duration, facts, least_width, plan_table, stages_unlike, width

if TYPE_CHECKING:
    from frostline.runs.plan import Plan
    from frostline.training.loop import EpochResult

_END = re.compile("(?<=[.]) (?=(?:[^`]*`[^`]*`)*[^`]*$)|\n")  # end of a sentence, but not within backticks
_COMMAND = re.compile("`[^`]* [^`]*`|python -m ")
_INTERVAL = 0.1  # seconds between two updates of a bar


def sentences(text: str) -> list[str]:
    """Return the sentences of a verdict; commands between backticks are not split."""
    return _END.split(text)


class _Terminal(Console):
    """A console whose output may fail: the reader leaves, as in `| head`, the terminal closes, or the disk is full.

    The run then continues without output instead of ending.
    """

    def _check_buffer(self) -> None:
        try:
            super()._check_buffer()
        except OSError:
            self.on_broken_pipe()

    def on_broken_pipe(self) -> None:
        """Discard all further output."""
        self.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class Screen:
    """The terminal: tables and lines, and below them one progress display, which is erased at the end.

    If the output is not a terminal, only tables and lines are written.
    """

    def __init__(self, console: Console | None = None) -> None:
        if console is None:
            streams.prepare()  # a process that a third-party launcher started gets here first
        self.console = console or _Terminal(markup=False, highlight=False, emoji=False, quiet=streams.is_quiet())
        self._live = self.console.is_interactive and self.console.file.isatty() and not self.console.quiet
        self._plans: dict[tuple[str, str, str], Plan] = {}
        self._started: float | None = None
        self._bars: _Bars | None = None

    @classmethod
    def silent(cls) -> Screen:
        """Return a screen that shows nothing."""
        return cls(Console(quiet=True))

    @classmethod
    def beside(cls) -> Screen:
        """Return a screen on stderr, for use beside output for programs on stdout."""
        return cls(Console(stderr=True, markup=False, highlight=False, emoji=False))

    def answer(self) -> None:
        """Show all further output even if the screen is quiet, since the user asked for it."""
        self.console.quiet = False

    def say(self, text: str, style: str = "") -> None:
        """Print `text`, wrapped between words on a terminal; as one line elsewhere, or if it has something to copy.

        A terminal breaks a long line by itself, and a command or path copied from it is whole.
        """
        whole = not self._live or _COMMAND.search(text) or max(map(len, text.split()), default=0) > self.console.width
        self.console.print(Text(text, style), soft_wrap=bool(whole))

    def outcome(self, parts: Iterable[Table | str]) -> None:
        """Print the tables and lines on the outcome of a sweep."""
        for part in parts:
            self.say(part) if isinstance(part, str) else self.show(part)

    def verdict(self, text: str) -> None:
        """Print a verdict, one sentence per line, so that its commands can be copied."""
        for sentence in sentences(text):
            self.say(sentence)

    def plan(self, plan: Plan, *, whole: bool = False) -> None:
        """Print the plan of a run: a header of facts, then a table of what learns in each phase and stage.

        After the first plan of a model, freeze mode and data set, only the differences from that plan are printed,
        unless `whole`.
        """
        first = self._plans.setdefault((plan.model, plan.freeze_mode, plan.data), plan)
        if whole or first is plan:
            self.console.print(facts(plan))
            self.show(plan_table(plan))
            return
        header, stages = facts(plan, unlike=first), stages_unlike(plan, first)
        if header.row_count:
            self.console.print(header)
        if stages is None:
            self.show(plan_table(plan))
        for line in stages or ():
            self.say(f"  {line}")

    @contextmanager
    def run(self, name: str, *, job: int, jobs: int, epochs: int) -> Iterator[None]:
        """Show the progress of a run, the `job`-th (0-based) of `jobs`, within the block."""
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
        """Show a bar of `total` steps within the block; yield a function that advances it by a number of steps."""
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

    def epoch(self, done: EpochResult, *, epochs: int, phases: int, chosen_by: tuple[Metric, float]) -> None:
        """Print the line of a finished epoch, one of `epochs`, in one of `phases`, and advance the bars.

        `chosen_by` is the metric that selects the best epoch, and its value in this epoch.
        """
        by, value = chosen_by
        chosen = "" if by in (ACCURACY, LOSS) else f"  {by.words} {by.text(value)}"
        phase = f"  phase {done.phase + 1}/{phases}" if phases > 1 else ""
        self.advance(done.epoch)
        self.say(
            f"  epoch {done.epoch:>{len(str(epochs))}}/{epochs}{phase}"
            f"  train {_loss(done.train_loss)} {percent(done.train_accuracy):>7}"
            f"  val {_loss(done.val.loss)} {percent(done.val.accuracy):>7}{chosen}  {duration(done.seconds)}"
        )

    @property
    def limit(self) -> int | None:
        """The most characters that a table may be wide; None if the output is not a terminal.

        A terminal without control sequences, as in Emacs, has a limit too.
        """
        return self.console.width if self.console.file.isatty() and not self.console.quiet else None

    def show(self, table: Table) -> None:
        """Print a table; as lines of text if a terminal is too narrow, and in full width if there is no terminal."""
        if self.limit and least_width(table) > self.limit:
            for line in as_lines(table):
                self.say(line)
            return
        before = self.console.width
        if not self.limit:
            self.console.width = max(before, width(table))
        self.console.print(table)
        self.console.width = before


@functools.cache
def screen() -> Screen:
    """Return the screen of this process, which also prints notices."""
    own = Screen()
    notices.to(lambda line: own.say(f"  {line}", "yellow"))
    return own


def say(text: str, style: str = "") -> None:
    """Print `text` on the screen of this process."""
    screen().say(text, style)


class _Bars:
    """The bar of a run, and above it the bar of the sweep if there are several runs."""

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
        """Move the bars; within an epoch at most once per `_INTERVAL`, since steps may be shorter."""
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
    """Return a progress display whose tasks have two fields, `at` and `left`; it is erased at the end."""
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=None),
        TextColumn("{task.fields[at]}", markup=False),
        TimeElapsedColumn(),
        TextColumn("{task.fields[left]}", markup=False),
    )
    return Progress(*columns, console=console, transient=True, expand=True, disable=not shown)


def _loss(value: float) -> str:
    return f"{value:.4f}" if value < 1e5 else f"{value:.3e}"  # before it diverges, a loss may have 30 digits


def _left(task: Task, share: float) -> str:
    """Return the time left at the pace so far; empty before the first progress and at the end."""
    return f"{duration((task.elapsed or 0) * (1 - share) / share)} left" if 0 < share < 1 else ""
