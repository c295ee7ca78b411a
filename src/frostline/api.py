"""The public door: sweeps, runs and networks as Python objects, for notebooks and programs; the commands use it too.

`import frostline` hands these names on when they are asked for, and loads neither torch nor MLflow.
"""

from __future__ import annotations

import atexit
import io
import operator
import re
import reprlib
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from frostline.core import files, machine, notices, project
from frostline.core.config import Config
from frostline.core.errors import UserError, user_error
from frostline.core.validation import read_config
from frostline.records import journal, layout, trial_tags
from frostline.records.result import Result

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    import torch
    from numpy.typing import NDArray
    from PIL import Image
    from torch import Tensor

    from frostline.report.advice import Standing
    from frostline.report.cells import Cell
    from frostline.report.contest import Contest
    from frostline.report.predictions import Predictions
    from frostline.runs.plan import Plan
    from frostline.runs.predict import Predictor
    from frostline.runs.prediction_file import Written

    Picture = Path | str | Image.Image | NDArray[np.uint8] | Tensor
    """A file; or a picture as Pillow has it, `(H, W, 3)` uint8, or as a tensor `(3, H, W)` uint8."""


_OURS = "frostline: "  # what a complaint of the command line begins with


def compose(*overrides: str) -> Config:
    """Return the checked config of one run, as `python train.py` composes it: `compose("freeze=head", "lr=1e-3")`.

    Needs no torch, and leaves Hydra as it was. UserError for what no run can have.
    """
    from frostline.sweeps.compose import compose_one

    return compose_one(_texts(overrides))


def plan(config: Config) -> Plan:
    """Return what a run of `config` would do, stage by stage; its data is looked at, and nothing is trained."""
    if not isinstance(config, Config):
        raise user_error("config", reprlib.repr(config), 'what compose("freeze=head") returns')
    from frostline.report.terminal import Screen
    from frostline.runs.plan import describe
    from frostline.runs.setup import assemble
    from frostline.sweeps import find_weights

    with machine.torch_as_it_was(), tempfile.TemporaryDirectory() as folder:
        screen = Screen.silent()
        setup = assemble(config, Path(folder), meta=True, screen=screen, fetch=find_weights.weights)
        return describe(setup, config.freeze_mode.name)


def advise(*overrides: str, pictures: int = 2000) -> Advice:
    """Return what is known of the backbones of a sweep before it: `advise("model=resnet18,resnet50", "data=cifar10")`.

    At most so many `pictures` are looked at, and a few steps of each freeze mode are timed in this process; nothing is
    trained or recorded. UserError for what a sweep refuses.
    """
    from frostline.report.terminal import Screen
    from frostline.sweeps import advice

    count = _whole("pictures", pictures)
    with machine.torch_as_it_was():
        return Advice(advice.advise(_texts(overrides), pictures=count, screen=Screen.silent()))


def sweep(*overrides: str, folder: Path | str | None = None) -> Sweep:
    """Run a sweep, as `python train.py -m` does, and return it: `sweep("freeze=head,full", "lr=1e-3,1e-4")`.

    It runs in processes of its own, and what they say is printed as it comes; `folder` is where it lies, by default a
    new one in `multirun/`. Runs that failed are among its results. UserError for a mistake in `overrides`, and
    KeyboardInterrupt where it was interrupted; the same call then goes on from there.
    """
    if told := [one for one in _texts(overrides) if one.startswith("hydra.sweep.dir=")]:
        raise UserError(f"{told[0]}: expected to be given as `folder`")
    if told := [one for one in overrides if one.startswith("rerun=")]:
        raise UserError(f"{told[0]}: expected on the command line, as python -m frostline rerun")
    place = project.new_sweep() if folder is None else _place("folder", folder)
    quoted = str(place).replace("\\", "\\\\").replace("'", "\\'")
    command = [sys.executable, "-m", "frostline", "-m", *overrides, f"hydra.sweep.dir='{quoted}'"]
    with (
        tempfile.TemporaryFile("w+") as complaints,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=complaints, text=True) as process,
    ):
        try:
            for line in process.stdout or ():
                sys.stdout.write(line)
            status = process.wait()
        except KeyboardInterrupt:
            process.send_signal(signal.SIGINT)
            process.wait()
            raise
        complaints.seek(0)
        said = complaints.read().strip()
    if (place / layout.SWEEP).is_file() and status in (0, 1):
        return open(str(place))
    if status == 128 + signal.SIGINT:
        raise KeyboardInterrupt
    if status == 0:
        raise user_error("overrides", " ".join(overrides), "what runs a sweep, and this ended without one")
    lines = said.splitlines() or [f"the sweep ended with {status}"]
    line = next((one for one in reversed(lines) if one.startswith(_OURS)), lines[-1])
    raise UserError(re.sub("^hydra.sweep.dir=", "folder=", line.removeprefix(_OURS)))


def open(*names: str | Path) -> Sweep:
    """Return the sweep that a name stands for; several are put together, and what differs between them is a choice.

    A name is that of a folder, MLflow's id of a run or sweep or its beginning, or the name of a sweep or an experiment.
    UserError where it stands for nothing.
    """
    from frostline.report import combine
    from frostline.sweeps import catalog

    scratch = Path(tempfile.mkdtemp(prefix="frostline-"))
    atexit.register(shutil.rmtree, scratch, ignore_errors=True)
    found = catalog.sweeps([str(name) for name in names], scratch)
    if not found:
        raise user_error("sweep", "", "the name of a sweep")
    alone = found[0] if len(found) == 1 else None
    name = f"Sweep {alone.name}" if alone else f"{len(found)} sweeps"
    own = alone.folder if alone and not alone.folder.is_relative_to(scratch) else None
    return Sweep(name, tuple(combine.together(found)), own, found[0].tracker, scratch)


def load(name: str | Path | Run | Sweep, *, device: str | torch.device = "auto") -> Classifier:
    """Return the trained network of a run; a sweep stands for its best cell by validation, first seed.

    Names are those of `open`. Torch is told of the run's threads and determinism for as long as the network
    computes, and is then as it was. UserError where there is none, or none that kept its weights.
    """
    from frostline.runs import predict
    from frostline.sweeps import find_weights
    from frostline.sweeps.catalog import Name

    note = ""
    if isinstance(name, Sweep):
        result, note = find_weights.best(Name(name.name, "sweep"), name.results)
        name = Run(result)
    if isinstance(name, Run):
        name = name.result.run_id if name.result.run_id and not name.folder.is_dir() else name.folder
    with machine.torch_as_it_was(), find_weights.found(str(name)) as run:
        return Classifier(predict.load(run.folder, device=str(device)), note or run.note)


@dataclass(frozen=True, repr=False)
class Run:
    """A run on record."""

    result: Result

    def __repr__(self) -> str:
        return f"<Run {self.name}: {self.status}, in {self.folder}>"

    @property
    def name(self) -> str:
        """What tells it from the others, e.g. `head lr=0.001 seed=0`."""
        return self.result.name

    @property
    def status(self) -> str:
        """`FINISHED`, `FAILED`, `KILLED`, `RUNNING`, `WAITING` or, of a dry run, `PLANNED`."""
        return self.result.status

    @property
    def choices(self) -> dict[str, Any]:
        """What was chosen, by short name."""
        return self.result.choices

    @property
    def metrics(self) -> dict[str, float]:
        """The metrics that a run has once: `best/...`, `test/...`, `cost/...`; accuracies in 0..1, times in seconds."""
        return self.result.metrics

    @property
    def folder(self) -> Path:
        """Where its files lie."""
        return Path(self.result.folder)

    @cached_property
    def config(self) -> Config:
        """Everything it was told."""
        return read_config(self.folder / layout.CONFIG)

    def epochs(self) -> pd.DataFrame:
        """Return its metrics, a row per epoch."""
        import pandas as pd

        lines = journal.epochs(self.folder)
        return pd.DataFrame(lines).set_index("epoch") if lines else pd.DataFrame()

    def predictions(self) -> Predictions | None:
        """Return what it said of the test images; None where it did not come to that."""
        from frostline.report import predictions

        return predictions.read(self.result.folder)


@dataclass(frozen=True, repr=False)
class Sweep:
    """A sweep on record, finished or not, or several put together."""

    name: str
    """For people: `Sweep` and when it began, or how many there are."""
    results: tuple[Result, ...]
    folder: Path | None
    """Where it lies; None for several, and for one that was fetched from MLflow."""
    tracker: Any = None
    """Where it is in MLflow."""
    _scratch: Path | None = field(default=None, compare=False)
    """Where lies what was fetched, until the program ends."""

    def __repr__(self) -> str:
        finished = sum(one.status == "FINISHED" for one in self.results)
        where = f", in {self.folder}" if self.folder else ""
        runs = "1 run" if len(self.results) == 1 else f"{len(self.results)} runs"
        return f"<{self.name}: {runs}, {finished} finished{where}>"

    @property
    def runs(self) -> list[Run]:
        """All of its runs, in the order of its jobs."""
        return [Run(result) for result in self.results]

    @property
    def cells(self) -> list[Cell]:
        """Its points, each with all seeds: the best by validation first."""
        from frostline.report.cells import cells

        return cells(self.results)

    @property
    def best(self) -> Run:
        """The first seed of the best cell by validation; UserError where none is better than the others."""
        from frostline.sweeps import find_weights
        from frostline.sweeps.catalog import Name

        return Run(find_weights.best(Name(self.name, "sweep"), self.results)[0])

    @property
    def verdict(self) -> str:
        """The answer in plain words."""
        from frostline.report.verdict import answer

        return answer(self.results)

    @property
    def contests(self) -> list[Contest]:
        """The answer as data: one contest for each data set."""
        from frostline.report.contest import contests

        return contests(self.results)

    def to_pandas(self) -> pd.DataFrame:
        """Return a table with a row per run: its choices, status and metrics."""
        import pandas as pd

        rows = [{"name": one.name, **one.choices, "status": one.status, **one.metrics} for one in self.results]
        return pd.DataFrame(rows).drop(columns=[trial_tags.SPACE, trial_tags.OBJECTIVE], errors="ignore")

    def report(self, path: Path | str | None = None) -> Report:
        """Write the report, one HTML file that opens offline, and return it; a notebook shows it."""
        from frostline.report import html

        file = _place("path", (self.folder or Path()) / layout.REPORT if path is None else path)
        with _writing("path", file):
            file.parent.mkdir(parents=True, exist_ok=True)
            page = html.write(file, self.results, title=self.name, tracker=self.tracker, scratch=self._scratch)
        return Report(page)

    def plots(self, folder: Path | str | None = None) -> list[Path]:
        """Draw plots as PNG and SVG and return the files."""
        from frostline.report import plots

        place = _place("folder", (self.folder or Path()) / layout.PLOTS if folder is None else folder)
        with _writing("folder", place):
            return plots.write(place, self.results)

    def _repr_html_(self) -> str:
        """Return the verdict, the table of runs and the plots, for a notebook."""
        with tempfile.TemporaryDirectory() as folder:
            drawn = [file.read_text() for file in self.plots(folder) if file.suffix == ".svg"]
        table = self.to_pandas().to_html(index=False, float_format="{:.4g}".format, na_rep="")
        pictures = "".join(text[text.index("<svg") :] for text in drawn)
        return f"<p>{escape(self.verdict)}</p>{table}<div>{pictures}</div>"


@dataclass(frozen=True, repr=False)
class Advice:
    """What is known of backbones before they are swept over."""

    found: Any
    """All of it (`frostline.sweeps.advice.Advice`)."""

    def __repr__(self) -> str:
        return f"<Advice on {', '.join(one.backbone.name for one in self.standings)}>"

    @property
    def standings(self) -> list[Standing]:
        """The backbones, the best linear probe first, and whether each is told apart from the first."""
        from frostline.report.advice import standings

        return standings(self.found.backbones)

    @property
    def command(self) -> str:
        """The command of the sweep that is left to run."""
        from frostline.report.advice import next_sweep

        return next_sweep(self.found)

    @property
    def said(self) -> list[str]:
        """What the numbers say, what to type next, and how little all of that is, a sentence each."""
        from frostline.report.advice import sentences

        return list(sentences(self.found))

    def to_pandas(self) -> pd.DataFrame:
        """Return a table with a row per backbone and stage: what activations above the stage are worth."""
        return self._table("borders")

    def costs(self) -> pd.DataFrame:
        """Return a table with a row per backbone and freeze mode: times in seconds, memory in bytes."""
        return self._table("costs")

    def _table(self, part: str) -> pd.DataFrame:
        import pandas as pd

        from frostline.report.advice import facts

        return pd.DataFrame(
            [{"backbone": one["name"], **row} for one in facts(self.found)["backbones"] for row in one[part]]
        )

    def _repr_html_(self) -> str:
        """Return the sentences and both tables, for a notebook."""
        tables = [one.to_html(index=False, float_format="{:.4g}".format) for one in (self.to_pandas(), self.costs())]
        return "".join([*(f"<p>{escape(sentence)}</p>" for sentence in self.said), *tables])


@dataclass(frozen=True)
class Report:
    """A report that was written."""

    path: Path

    def _repr_html_(self) -> str:
        """Return it in a frame, for a notebook."""
        page = escape(self.path.read_text(encoding="utf-8"))
        return f'<iframe srcdoc="{page}" width="100%" height="800" style="border:0"></iframe>'


@dataclass(frozen=True, repr=False)
class Classifier:
    """A trained network, and how pictures are shown to it."""

    network: Predictor
    note: str = ""
    """What is to be known of the choice of it; empty where there was none."""

    def __repr__(self) -> str:
        return f"<Classifier {self.network.model.name}: {len(self.classes)} classes, on {self.network.device}>"

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of its classes."""
        return self.network.classes

    def probabilities(self, pictures: Picture | Iterable[Picture], *, batch: int | None = None) -> Tensor:
        """Return `(N, classes)` float32; UserError names a file that is no picture. `batch` pictures at once."""
        from frostline.runs import predict

        size = None if batch is None else _whole("batch", batch)
        with machine.torch_as_it_was():
            self.network.prepare()
            return predict.probabilities(self.network, _listed(pictures), batch=size)

    def predict(self, pictures: Picture | Iterable[Picture], *, top: int = 1) -> list[dict[str, float]]:
        """Return for each picture its `top` classes with their probabilities, the most probable first."""
        from frostline.runs.predict import ranked

        count = _whole("top", top)
        return [ranked(self.classes, row, count) for row in self.probabilities(pictures)]

    def predict_table(
        self,
        pictures: Path | str | Iterable[Path | str],
        output: Path | str,
        *,
        top: int = 1,
        features: str | None = None,
        batch: int | None = None,
        path: str | None = None,
        root: Path | str | None = None,
    ) -> Written:
        """Write what any number of pictures show into `output`, .parquet, .csv or .jsonl, and return what came of it.

        `pictures` is a table, a folder, or files and folders. A table's columns are carried along; `path` names the one
        of its paths where it is not called as is common, and `root` the folder that they are relative to. `features` is
        the layer whose vectors are written too: `head` for what the head is given, or a stage. The same call goes on
        where an earlier one was interrupted. UserError for what cannot be done; a picture that cannot be read is a row.
        """
        from frostline.data.picture_list import gather
        from frostline.report.terminal import Screen
        from frostline.runs import prediction_file

        file, count = _place("output", output), _whole("top", top)
        size = self.network.config.eval_batch_size if batch is None else _whole("batch", batch)
        given = _listed(pictures)
        if not given or not all(isinstance(one, Path | str) for one in given):
            raise user_error(
                "pictures", reprlib.repr(pictures), "a table, a folder, or files and folders, by their paths"
            )
        below = None if root is None else str(_place("root", root))
        with machine.torch_as_it_was():
            self.network.prepare()
            return prediction_file.write(
                self.network,
                file,
                lambda file: gather(file, given, say=notices.tell, path=path, root=below),
                top=count,
                features=features,
                batch=size,
                progress=Screen.beside().progress,
            )

    def export(self, path: Path | str, kind: str | None = None) -> float:
        """Write it for other programs and return the largest difference of a probability to the original.

        `kind` is `onnx`, `torchscript` or `safetensors`; by default what the suffix says. UserError where it cannot be
        written so.
        """
        from frostline.runs import export

        file = _place("path", path)
        kinds = {suffix: kind for kind, suffix in export.SUFFIXES.items()}
        chosen = kinds.get(file.suffix) if kind is None else kind
        if chosen not in export.SUFFIXES:
            raise user_error("kind", kind or file.suffix, f"one of {', '.join(export.SUFFIXES)}", export.SUFFIXES)
        with machine.torch_as_it_was(), _writing("path", file):
            self.network.prepare()
            return export.export(self.network, chosen, file)


def _texts(overrides: Sequence[str]) -> Sequence[str]:
    """Return what was told of a run or sweep; UserError where one of it is no text."""
    if odd := [one for one in overrides if not isinstance(one, str)]:
        raise user_error("overrides", reprlib.repr(odd[0]), 'texts, an argument each, as in "freeze=head", "lr=1e-3"')
    return overrides


def _place(name: str, path: Path | str) -> Path:
    """Return where a path leads, absolute and with the home that `~` stands for; UserError for what is none."""
    if not isinstance(path, Path | str):
        raise user_error(name, reprlib.repr(path), "a path")
    return files.expanded(str(path)).absolute()


@contextmanager
def _writing(name: str, file: Path) -> Iterator[None]:
    """Raise `UserError` where the system does not let the block write."""
    try:
        yield
    except OSError as error:
        raise user_error(name, file, f"a place that can be written to ({error.strerror or error})") from None


def _whole(name: str, number: int) -> int:
    """Return a number of things, NumPy's too; UserError for any other."""
    try:
        count = operator.index(number)
    except TypeError:
        count = 0
    if count < 1 or isinstance(number, bool):
        raise user_error(name, number, "a whole number of at least 1")
    return count


def _listed(pictures: Any) -> list[Any]:
    """Return pictures one by one: of a list, a column of a table or whatever yields them, else the one."""
    if getattr(pictures, "ndim", None) == 1:
        return list(pictures.tolist())
    several = isinstance(pictures, list | tuple | Iterator) and not isinstance(pictures, io.IOBase)
    return list(pictures) if several else [pictures]
