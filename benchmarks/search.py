"""Overhead of a search per trial: the time from the end of one run to the start of the next one.

Training is replaced by a formula of the learning rate. Everything else is the program itself: suggestions, studies,
plans, the search for earlier runs, the configs for the worker, the sweep's files, and the judge of a trial. The files
that every run writes, also without a search, are measured separately. A trial that waits and resumes counts each time.
"""

from __future__ import annotations

import contextlib
import io
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean, median
from typing import Any
from unittest import mock

import hydra
from hydra import initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn, JobStatus
from omegaconf import DictConfig

import ours
from bench import Bench
from frostline.core.config import Config
from frostline.core.metrics import ACCURACY
from frostline.core.project import config_folder, register_resolver
from frostline.records import journal, trial_tags
from frostline.records.recording import Paused
from frostline.records.result import EPOCHS, PRUNED, SECONDS, TEST, VAL, Result, write_result
from frostline.records.sweep_facts import SweepFacts
from frostline.records.trial_tags import Decision, Judge
from frostline.runs import run
from frostline.runs.run_context import RunContext
from frostline.sweeps import job, study
from frostline.sweeps.composer import Composer
from frostline.sweeps.executor import Further, Workers
from frostline.sweeps.job_config import JobConfig, config_of, recordable
from frostline.sweeps.pool import Jobs
from frostline.sweeps.search import run_search
from frostline.tracking.mirror import Mirror
from table import Row

_PART = 100
"""Number of trials at the beginning that are compared with as many at the end."""
_SEARCHES = (
    ("search=random", 100),
    ("search=tpe", 100),
    ("search=tpe", 1000),
    ("search=tpe search.prune=hyperband", 1000),
)


def search(bench: Bench) -> Iterator[Row]:
    """Measure the overhead of a search per trial, and its growth with the number of trials."""
    quick = bench.scale.rounds == 1
    for asked, trials in _SEARCHES:
        clock = _searched(bench, asked.split(), *((6, 3) if quick else (trials, _PART)))
        times, new = clock.between, clock.new
        part = min(_PART, len(new) // 2)
        first, last = median(new[:part]), median(new[-part:])
        setting = f"{asked}, {trials} trials, one worker"
        note = f"mean; the longest {max(times):.2f} s; medians of the first and last {part}: {first:.4f} and {last:.4f}"
        note += f"; {len(times) + 1} starts" if len(times) + 1 > len(clock.begun) else ""
        yield bench.row("overhead per trial", setting, fmean(times), unit=" s", note=note)
        yield bench.row("record of a run", setting, fmean(clock.within), unit=" s", note="mean; what every run writes")
        if trials > _PART:
            what = f"medians of the last {part} trials against the first"
            yield bench.row("growth of the overhead per trial", setting, last / first, unit="x", note=what)


def _searched(bench: Bench, asked: Sequence[str], trials: int, whole: int) -> _Here:
    """Run a search, and return the stand-in for its launcher; the first `whole` runs write all files."""
    folder = bench.folder()
    typed = ["freeze=head", "lr=interval(1e-5,1)", *asked, f"trials={trials}", "search.batch=1", "epochs=9"]
    typed += ["search.confirm=0", "data.limit=40", "batch_size=20", "model.image_size=32", "threads=1"]
    typed += [f"store.path={bench.folder()}", f"tracking.uri={ours.mlflow_uri(folder)}", f"device={bench.device.type}"]
    register_resolver()
    with (
        initialize_config_dir(str(config_folder()), version_base="1.3"),
        mock.patch.object(run, "execute", _executed),
        contextlib.redirect_stdout(io.StringIO()),
    ):
        there = f"hydra.sweep.dir={folder}"
        compose = Composer(lambda one: hydra.compose("config", [*one, there], return_hydra_config=True))
        overrides = OverridesParser.create().parse_overrides(typed)
        worker = _Here(compose, whole)
        with mock.patch.object(study, "judge_of", worker.judge_of):
            if run_search(overrides, compose=compose, executor=Workers(worker, compose), folder_named=True):
                raise RuntimeError(f"the search in {folder} failed")
    return worker


def _executed(config: Config, run: RunContext, record: object) -> tuple[dict[str, float], dict[str, int]]:
    """Stand for `execute`."""
    return _trained(config, run.folder, run.judge)


def _trained(config: Config, folder: Path, judge: Judge | None) -> tuple[dict[str, float], dict[str, int]]:
    """Return the result of a run: better the nearer its learning rate is to 0.01, and a bit better with each epoch."""
    accuracy = math.exp(-((math.log10(config.lr) + 2) ** 2))
    found = {VAL: accuracy, TEST: accuracy, SECONDS: 1.0, EPOCHS: float(config.epochs)}
    if judge is not None:
        epoch, decision = len(journal.epochs(folder)), Decision.CONTINUE
        while decision is Decision.CONTINUE and epoch < config.epochs:
            epoch += 1
            value = accuracy * (1 - 0.5**epoch)
            journal.append_epoch(folder, {"epoch": epoch, ACCURACY.epoch: value})
            if epoch < config.epochs:
                decision = judge(epoch, value)
        if decision is Decision.PAUSE:
            raise Paused(epoch, epoch / config.epochs)
        if decision is Decision.STOP:
            found |= {PRUNED: float(epoch), EPOCHS: float(epoch)}
    return found, {"train": 40, "val": 10, "test": 10}


class _Here:
    """Stand-in for the launcher with one worker: runs jobs in this process, and times the gaps between them.

    Normally MLflow gets a run while the next one trains. Runs take no time here, so MLflow is waited for.
    """

    def __init__(self, compose: Composer, whole: int) -> None:
        self._whole = whole
        self.pool, self.config = self, compose([])
        self.between: list[float] = []
        """Seconds from the end of each run to the start of the next one, including the opening of its judge."""
        self.begun: dict[int, int] = {}
        """Number of runs started before each run, by its number."""
        self.within: list[float] = []
        """Seconds of each of the first runs; the others write only their result, which is faster."""
        self._ended: float | None = None

    @property
    def new(self) -> list[float]:
        """Seconds before each new run, without resumed ones."""
        return [self.between[before - 1] for before in self.begun.values() if before]

    def __len__(self) -> int:
        return 1

    def start(self, **_: Any) -> _Here:
        return self

    def call(self, function: Callable[[], object], meanwhile: Callable[[], object]) -> object:
        meanwhile()
        return function()

    def close(self, *, now: bool) -> None: ...

    def run(self, jobs: Jobs, compose: Callable[[int], DictConfig], *, further: Further) -> dict[int, JobReturn]:
        return {number: self._run(number, compose(number)) for number in jobs}

    def _run(self, number: int, composed: DictConfig) -> JobReturn:
        began = time.perf_counter()
        if self._ended is not None:
            self.between.append(began - self._ended)
        self.begun.setdefault(number, len(self.between))
        sweep = Path(composed.hydra.sweep.dir)
        folder = sweep / composed.hydra.sweep.subdir
        folder.mkdir(exist_ok=True)
        if number < self._whole:
            self._record(number, composed, sweep)
            self.within.append(time.perf_counter() - began)
        else:
            facts, config = SweepFacts.read(sweep).runs[number], config_of(composed)
            done = Result(number, facts.name, str(folder), None, "FINISHED", None, facts.choices, {})
            marks = (facts.choices[trial_tags.STUDY], facts.choices[trial_tags.TRIAL])
            judge = None if config.search.prune == "none" else study.judge_of(config, sweep, *marks)
            try:
                metrics, images = _trained(config, folder, judge)
                done = replace(done, metrics=metrics, images=images)
            except Paused as pause:
                metrics = {EPOCHS: float(pause.epochs), SECONDS: pause.seconds}
                done = replace(done, status="PAUSED", metrics=metrics)
            write_result(folder, done)
        while Mirror(folder).pending():
            time.sleep(0.01)
        self._ended = time.perf_counter()
        return JobReturn(status=JobStatus.COMPLETED)

    def judge_of(self, *whose: Any, real: Callable[..., Judge] = study.judge_of) -> Judge:
        """Call `judge_of`, and count its time as the search's."""
        began = time.perf_counter()
        judge = real(*whose)
        if self.between:
            self.between[-1] += time.perf_counter() - began
        return judge

    def _record(self, number: int, composed: DictConfig, sweep: Path) -> None:
        """Run a job with all files that it writes."""

        def configure() -> JobConfig:
            config = config_of(composed)
            return JobConfig(config, recordable(composed, config), [*composed.hydra.overrides.task])

        job.SweepJob(sweep, number).carry_out(configure)
