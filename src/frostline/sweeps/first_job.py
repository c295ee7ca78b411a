"""The first job of a sweep on a cluster, which checks data and weights and queues the runs, off the login node."""

from __future__ import annotations

import hashlib
import pickle
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cloudpickle
from hydra.core.singleton import Singleton
from hydra.core.utils import setup_globals

from frostline.core import project
from frostline.core.config_keys import digest
from frostline.core.errors import UserError
from frostline.records import cluster_jobs, layout
from frostline.records.sweep_facts import SweepFacts, SweepFile
from frostline.report import terminal
from frostline.sweeps import forecast, watching
from frostline.sweeps.already_finished import settled_digest
from frostline.sweeps.cluster import Cluster
from frostline.sweeps.cluster_work import as_job
from frostline.sweeps.compose import PlannedRun
from frostline.sweeps.composer import Composer
from frostline.sweeps.executor import pin, pinned
from frostline.sweeps.ownership import claim
from frostline.sweeps.skip_or_resume import facts_of

Run = Callable[..., int]
"""`sweep.run_sweep` of the typed jobs, given how to compose and execute them."""


def send(planned: Sequence[PlannedRun], executor: Cluster, folder: Path, *, named: bool, run: Run) -> int | None:
    """Submit a first job that checks the `planned` runs and queues them with `run`, and return the exit status.

    None if this process is to check and queue itself. If the same sweep is in progress, it is followed instead, and
    nothing is queued twice.
    """
    digests, config = [digest(each.config) for each in planned], planned[0].config
    if config.dry_run:
        return _print_forecast(planned, executor, folder)
    where = (config.experiment_name, str(config.tracking.uri), str(config.tracking.artifacts))
    asked = [*digests, *where, str(config.resume)]
    executor.asked = hashlib.sha256("\0".join(asked).encode()).hexdigest()
    if (there := _in_progress(folder, executor.asked)) is not None:
        kept = "nothing is queued twice, and its jobs keep the resources that they requested"
        terminal.say(f"This sweep is in progress in {there}: {kept}")
        return watching.follow(there, detach=executor.how.detach)
    if executor.how.check != "job":
        return None
    own = _settled_digests(planned, folder) if named else digests
    folder = claim(folder, own, again=config.resume, named=named)
    carried = cloudpickle.dumps((executor.launcher, executor.config))
    first = FirstJob(folder, executor.asked, run, Singleton.get_state(), carried)
    if fresh := not SweepFacts.exist(folder):  # record the planned runs now, whatever happens to the job
        SweepFile(folder, None).add(map(facts_of, planned))
    try:
        (number,) = executor.submit([first], [()], folder)
    except UserError:
        if fresh:  # keep the folder of an earlier sweep
            shutil.rmtree(folder)
        raise
    terminal.say(f"cluster={executor.how.name}: job {number} checks data and weights, then queues the runs")
    return watching.follow(folder, detach=executor.how.detach)


def _print_forecast(planned: Sequence[PlannedRun], executor: Cluster, folder: Path) -> int:
    for line in forecast.lines(planned, executor.how, executor.launcher.params, folder):
        terminal.say(line)
    terminal.say("Nothing is queued; `cluster=local dry_run=true` shows what each run would do.")
    return 0


def _settled_digests(planned: Sequence[PlannedRun], folder: Path) -> list[str]:
    """Return the digests of the `planned` runs, with the values that `auto` took in the sweep that is in `folder`."""
    there = SweepFacts.read(folder).runs if SweepFacts.exist(folder) else ()
    if len(there) != len(planned):
        return [digest(run.config) for run in planned]
    return [settled_digest(run.config, facts) for run, facts in zip(planned, there, strict=True)]


def _in_progress(folder: Path, asked: str) -> Path | None:
    """Return the folder of the same sweep if it is queued or running: `folder`, one beside it or of the project."""
    tops = [folder.parent, *project.multirun().glob("*")]
    found = {folder, *(file.parent for top in tops for file in top.glob(f"*/{layout.JOBS}"))}
    same = [sweep for sweep in sorted(found) if any(each.asked == asked for each in cluster_jobs.of(sweep))]
    return next((sweep for sweep in same if cluster_jobs.alive(sweep)), None)


@dataclass(frozen=True)
class FirstJob:
    """The first job of a sweep."""

    folder: Path
    asked: str
    run: Run
    state: Any
    """Hydra's state where the job was queued."""
    carried: bytes
    """The pickled launcher and config, to be loaded after Hydra's state, which defines the plugins' classes again."""

    def __call__(self) -> None:
        """Check the sweep and queue its runs; note a user error in the sweep's folder."""
        as_job(self.folder, self._queue, fault="the sweep could not be queued")

    def _queue(self) -> str | None:
        """Queue the runs; return a user error in one line, None if all are queued."""
        project.register_resolver()
        Singleton.set_state(self.state)
        setup_globals()
        launcher, config = pickle.loads(self.carried)
        pin(config, self.folder)
        load = launcher.hydra_context.config_loader.load_sweep_config
        compose = Composer(lambda given: load(config, pinned(given, self.folder)))
        executor = Cluster(launcher, config, detached=True, in_job=True)
        executor.asked = self.asked
        try:
            self.run(compose=compose, executor=executor)
        except UserError as error:
            return str(error)
        return None
