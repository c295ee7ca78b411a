"""Recorded runs and sweeps for notebooks and programs: metrics, tables, plots, the verdict and the report."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from functools import cached_property
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from frostline.api import arguments
from frostline.core.config import Config
from frostline.core.validation import read_config
from frostline.records import journal, layout, trial_tags
from frostline.records.result import Result, number_of

if TYPE_CHECKING:
    import pandas as pd

    from frostline.report.cells import Cell
    from frostline.report.contest import Contest
    from frostline.report.predictions import Predictions
    from frostline.report.two_runs import Comparison


@dataclass(frozen=True, repr=False)
class Run:
    """A recorded run."""

    result: Result

    def __repr__(self) -> str:
        return f"<Run {self.name}: {self.status}, in {self.folder}>"

    @property
    def name(self) -> str:
        """Its name within the sweep, e.g. `head lr=0.001 seed=0`."""
        return self.result.name

    @property
    def status(self) -> str:
        """`FINISHED`, `FAILED`, `KILLED`, `RUNNING`, `WAITING` or, of a dry run, `PLANNED`."""
        return self.result.status

    @property
    def choices(self) -> dict[str, Any]:
        """Its choices by short name, e.g. `freeze_mode`, `model`, `lr`."""
        return self.result.choices

    @property
    def metrics(self) -> dict[str, float]:
        """Final metrics: `best/...`, `test/...`, `cost/...`; accuracies in 0..1, times in seconds."""
        return self.result.metrics

    @property
    def folder(self) -> Path:
        """The folder of its files."""
        return Path(self.result.folder)

    @cached_property
    def config(self) -> Config:
        """Its full config."""
        return read_config(self.folder / layout.CONFIG)

    def epochs(self) -> pd.DataFrame:
        """Return its metrics with a row per epoch; an empty table without epochs."""
        import pandas as pd

        lines = journal.epochs(self.folder)
        return pd.DataFrame(lines).set_index("epoch") if lines else pd.DataFrame()

    def predictions(self) -> Predictions | None:
        """Return its predictions for the test images; None if it did not reach the test."""
        from frostline.report import predictions

        return predictions.read(self.result.folder)

    def test_images(self, *overrides: str) -> pd.DataFrame:
        """Return a row per test image: its name, label and group, the class it was given, and the probabilities.

        The images are listed anew; `overrides` may name another place, `"data.root=/data/birds"`. UserError if they
        are not those that were tested.
        """
        from frostline.api import tested_images

        return tested_images.table([self.result], arguments.texts(overrides))

    def compare(self, other: Run) -> Comparison:
        """Return the difference to another run on the test split, with its 95% interval and a sentence (`verdict`).

        Test images are compared in pairs if both runs were tested on the same ones. UserError for runs without a test,
        for the same run, and for runs that different metrics selected.
        """
        from frostline.report import two_runs

        return two_runs.compare_runs(self.result, other.result)


@dataclass(frozen=True, repr=False)
class Sweep:
    """A recorded sweep, finished or not, or several combined."""

    name: str
    """A title: `Sweep` and when it began, or the number of sweeps."""
    results: tuple[Result, ...]
    folder: Path | None
    """Its folder; None for several sweeps, and for one that was fetched from MLflow."""
    tracker: Any = None
    """Its place in MLflow."""
    _scratch: Path | None = field(default=None, compare=False)
    """Folder for files fetched from MLflow, deleted when the program ends."""

    def __repr__(self) -> str:
        finished = sum(one.status == "FINISHED" for one in self.results)
        where = f", in {self.folder}" if self.folder else ""
        return f"<{self.name}: {number_of(len(self.results), 'run')}, {finished} finished{where}>"

    @property
    def runs(self) -> list[Run]:
        """All runs, in the order of its jobs."""
        return [Run(result) for result in self.results]

    @property
    def cells(self) -> list[Cell]:
        """Its cells, each a combination of values with all of its seeds, best by validation first."""
        from frostline.report.cells import cells

        return cells(self.results)

    @property
    def best(self) -> Run:
        """The first seed of the best cell by validation; UserError if runs cannot be compared."""
        from frostline.sweeps import find_weights
        from frostline.sweeps.catalog import TypedName

        return Run(find_weights.best(TypedName(self.name, "sweep"), self.results)[0])

    @property
    def verdict(self) -> str:
        """The answer in one or a few sentences."""
        from frostline.report.verdict import answer

        return answer(self.results)

    @property
    def contests(self) -> list[Contest]:
        """The answer as data: one contest per data set."""
        from frostline.report.contest import contests

        return contests(self.results)

    def to_pandas(self, *, cells: bool = False) -> pd.DataFrame:
        """Return a table with a row per run: its choices, status and metrics.

        With `cells`, a row per cell, best by validation first: its choices, how many of its runs finished, the 95%
        interval of its test score in the metric of `select`, and the mean of every metric over its repeats.
        """
        import pandas as pd

        if cells:
            rows = [_row(cell) for cell in self.cells]
        else:
            rows = [{"name": one.name, **one.choices, "status": one.status, **one.metrics} for one in self.results]
        return pd.DataFrame(rows).drop(columns=[trial_tags.SPACE, trial_tags.OBJECTIVE], errors="ignore")

    def to_dict(self) -> dict[str, Any]:
        """Return the answer as plain data, as `frostline compare --json` prints it: verdict, contests, cells.

        Accuracies and differences are fractions in 0..1, costs by metric name.
        """
        from frostline.report import answer_data

        return answer_data.of_results(self.results)

    def test_images(self, *overrides: str) -> pd.DataFrame:
        """Return the test images of all runs of the best cell by validation, as `Run.test_images` does.

        The columns `seed`, `data.fold` and `data.subset_seed` tell the runs apart. With folds, every image is in it
        once per seed.
        """
        from frostline.api import tested_images
        from frostline.sweeps import find_weights, tested_runs
        from frostline.sweeps.catalog import TypedName

        best = find_weights.ranked(TypedName(self.name, "sweep"), self.results)[0]
        with tempfile.TemporaryDirectory() as scratch:
            uri = (self.tracker or {}).get("uri")
            runs = [tested_runs.with_files(run, uri, Path(scratch)) for run in best.finished]
            return tested_images.table(runs, arguments.texts(overrides))

    def report(self, path: Path | str | None = None) -> Report:
        """Write the report, one HTML file that opens offline, to `path` and return it; notebooks display it."""
        from frostline.report import html

        file = arguments.place("path", (self.folder or Path()) / layout.REPORT if path is None else path)
        with arguments.writing("path", file, path):
            file.parent.mkdir(parents=True, exist_ok=True)
            page = html.write(file, self.results, title=self.name, tracker=self.tracker, scratch=self._scratch)
        return Report(page)

    def plots(self, folder: Path | str | None = None) -> list[Path]:
        """Draw plots as PNG and SVG into `folder` and return the files."""
        from frostline.report import plots

        place = arguments.place("folder", (self.folder or Path()) / layout.PLOTS if folder is None else folder)
        with arguments.writing("folder", place, folder):
            return plots.write(place, self.results)

    def _repr_html_(self) -> str:
        """Return the verdict, the table of runs and the plots, for a notebook."""
        with tempfile.TemporaryDirectory() as folder:
            drawn = [file.read_text(encoding="utf-8") for file in self.plots(folder) if file.suffix == ".svg"]
        table = self.to_pandas().to_html(index=False, float_format="{:.4g}".format, na_rep="")
        images = "".join(text[text.index("<svg") :] for text in drawn)
        return f"<p>{escape(self.verdict)}</p>{table}<div>{images}</div>"


def _row(cell: Cell) -> dict[str, Any]:
    """Return the row of a cell in a table of cells."""
    from frostline.report.cell_intervals import test_interval

    within = test_interval(cell)
    low, high = (within.low, within.high) if within else (None, None)
    return {**cell.choices, "finished": len(cell.finished), "test/low": low, "test/high": high, **cell.means()}


@dataclass(frozen=True)
class Report:
    """A written report."""

    path: Path

    def _repr_html_(self) -> str:
        """Return the report in a frame, for a notebook."""
        page = escape(self.path.read_text(encoding="utf-8"))
        return f'<iframe srcdoc="{page}" width="100%" height="800" style="border:0"></iframe>'
