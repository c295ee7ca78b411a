"""What a search adds to each trial: the time from the end of one run to the start of the next one.

Training is replaced by a formula of the learning rate. All else is the program itself: suggestions, studies, plans,
the look at earlier runs, the configs for the worker, and the sweep's files. What every run writes of itself, in a sweep
without a search, too, is measured apart.
"""

from __future__ import annotations

import contextlib
import io
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
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
from frostline.core.project import config_folder, register_resolver
from frostline.records.result import SECONDS, TEST, VAL, Result, write_result
from frostline.records.sweep_record import Shared
from frostline.runs import run
from frostline.sweeps import job
from frostline.sweeps.compose_cache import Composer
from frostline.sweeps.executor import Further, Workers
from frostline.sweeps.search import run_search
from frostline.tracking.mirror import Mirror
from table import Row

_PART = 100
"""So many trials at the beginning are compared with as many at the end."""
_SEARCHES = (("random", 100), ("tpe", 100), ("tpe", 1000))


def search(bench: Bench) -> Iterator[Row]:
    """Measure the time that a search takes for each trial beside its training, and whether that grows."""
    quick = bench.scale.rounds == 1
    for sampler, trials in _SEARCHES:
        clock = _searched(bench, sampler, 6 if quick else trials)
        times = clock.between
        part = min(_PART, len(times) // 2)
        first, last = median(times[:part]), median(times[-part:])
        setting = f"search={sampler}, {trials} trials, one worker"
        note = f"mean; the longest {max(times):.2f} s; medians of the first and last {part}: {first:.4f} and {last:.4f}"
        yield bench.row("overhead per trial", setting, fmean(times), unit=" s", note=note)
        yield bench.row("record of a run", setting, fmean(clock.within), unit=" s", note="mean; what every run writes")
        if trials > _PART:
            what = f"medians of the last {part} trials against the first"
            yield bench.row("growth of the overhead per trial", setting, last / first, unit="x", note=what)


def _searched(bench: Bench, sampler: str, trials: int) -> _Here:
    """Carry out a search, and return what stood for its worker."""
    folder = bench.folder()
    typed = ["freeze=head", "lr=interval(1e-5,1)", f"search={sampler}", f"trials={trials}", "search.batch=1"]
    typed += ["search.confirm=0", "data.limit=40", "batch_size=20", "model.image_size=32", "threads=1"]
    typed += [f"store.path={bench.folder()}", f"tracking.uri={ours.mlflow_uri(folder)}", f"device={bench.device.type}"]
    register_resolver()
    with (
        initialize_config_dir(str(config_folder()), version_base="1.3"),
        mock.patch.object(run, "execute", _trained),
        contextlib.redirect_stdout(io.StringIO()),
    ):
        there = f"hydra.sweep.dir={folder}"
        compose = Composer(lambda one: hydra.compose("config", [*one, there], return_hydra_config=True))
        overrides = OverridesParser.create().parse_overrides(typed)
        worker = _Here(compose)
        if run_search(overrides, compose=compose, executor=Workers(worker), folder_named=True):
            raise RuntimeError(f"the search in {folder} failed")
    return worker


def _trained(config: Config, **_: Any) -> tuple[dict[str, float], dict[str, int]]:
    """Stand for `execute`: a run is as good as its learning rate is near 0.01."""
    accuracy = math.exp(-((math.log10(config.lr) + 2) ** 2))
    return {VAL: accuracy, TEST: accuracy, SECONDS: 1.0}, {"train": 40, "val": 10, "test": 10}


class _Here:
    """Stands for the launcher and its one worker: jobs are carried out in this process, and what is between is timed.

    MLflow hears of a run while the next one is trained, for which there is no time here: it is waited for.
    """

    def __init__(self, compose: Composer) -> None:
        self.compose, self.forget, self.pool, self.config = compose, compose.forget, self, compose([])
        self.between: list[float] = []
        """Seconds from the end of each run to the start of the next one."""
        self.within: list[float] = []
        """Seconds of each of the first runs; of the others nothing but the result is written, which is quicker."""
        self._ended: float | None = None

    def __len__(self) -> int:
        return 1

    def start(self, **_: Any) -> _Here:
        return self

    def begin(self, function: Callable[[], object]) -> None:
        self._asked = function

    def finish(self) -> object:
        return self._asked()

    def close(self, *, now: bool) -> None: ...

    def run(
        self, jobs: Mapping[int, Sequence[str]], stacks: Mapping[int, int | None], *, further: Further
    ) -> dict[int, JobReturn]:
        return {number: self._run(number, overrides) for number, overrides in jobs.items()}

    def _run(self, number: int, overrides: Sequence[str]) -> JobReturn:
        composed = self.compose(overrides)
        began = time.perf_counter()
        if self._ended is not None:
            self.between.append(began - self._ended)
        sweep = Path(composed.hydra.sweep.dir)
        folder = sweep / composed.hydra.sweep.subdir
        folder.mkdir(exist_ok=True)
        if number < _PART:
            self._record(number, composed, overrides, sweep, folder)
            self.within.append(time.perf_counter() - began)
        else:
            facts = Shared.read(sweep).runs[number]
            metrics, images = _trained(job.config_of(composed))
            done = Result(number, facts.name, str(folder), None, "FINISHED", None, facts.choices, metrics, images)
            write_result(folder, done)
        while Mirror(folder).pending():
            time.sleep(0.01)
        self._ended = time.perf_counter()
        self.forget(overrides)
        return JobReturn(overrides=overrides, status=JobStatus.COMPLETED)

    def _record(self, number: int, composed: DictConfig, overrides: Sequence[str], sweep: Path, folder: Path) -> None:
        """Carry a job out with everything that it writes."""

        def order() -> job.Order:
            config = job.config_of(composed)
            return job.Order(config, job.recordable(composed, config), overrides)

        job.carry_out(order, number=number, sweep=sweep, folder=folder)
