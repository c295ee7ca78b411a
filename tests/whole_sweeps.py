"""Run whole sweeps and searches through the command line, in processes of their own, and read their results."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.storages.journal import JournalFileBackend

import stores
import warm
from frostline.records import journal, layout
from frostline.records.result import read_result
from frostline.sweeps.study_storage import storage_of
from small import TINY, compose

CHECKOUT = Path(__file__).parents[1]
QUICK = ("data.limit=100", "epochs=2", "batch_size=50", "model.image_size=32")
WITH_FAULT = """
import sys
from frostline.training.evaluation import EvaluatedPart
evaluate = EvaluatedPart.evaluate
def broken(part, batch_size):
    {code}
EvaluatedPart.evaluate = broken
from frostline.cli import main
main()
"""
"""A command whose evaluation executes `code`."""
TINY_SEARCH = (
    *("data.limit=40", "batch_size=20", "model.image_size=32", "data.test_fraction=0.05", "data.val_fraction=0.05"),
    *("threads=1", "epochs=2", *TINY, "search.confirm=2"),
)
RANGES = ("search=tpe", "lr=interval(1e-5,1)", "search.space.full.lr=interval(1e-4,1e-2)")
KILLED_IN_CALL = """
import os
from frostline.cli import main
from frostline.sweeps import search_space
from frostline.sweeps.study import Study
from frostline.sweeps.rungs import StudyRungs
count, real = 0, {place}
def dying(*given):
    global count
    count += 1
    if count == {number}:
        os.kill(os.getpid(), 9)
    return real(*given)
{place} = dying
main()
"""
"""A command that kills itself in the call `number` of the function `place`."""


@dataclass(frozen=True)
class CompletedSweep:
    """A sweep that ran: its exit status, its output, its folder and its tracking database."""

    folder: Path
    store: Path
    status: int = 0
    out: str = ""
    err: str = ""

    def results(self) -> list[dict[str, Any]]:
        """Return the results of all runs; a run may end before MLflow has given it an id."""
        return [asdict(read_result(path.parent)) for path in sorted(self.folder.glob("[0-9]*/result.json"))]

    def client(self) -> Any:
        from mlflow import MlflowClient

        return MlflowClient(f"sqlite:///{self.store}")

    def runs(self) -> list[Any]:
        """Return MLflow's records of the sweep and its runs."""
        client = self.client()
        experiments = [experiment.experiment_id for experiment in client.search_experiments()]
        return list(client.search_runs(experiments, f"tags.frostline.sweep LIKE '%{self.folder.name}'"))


def command(*overrides: str, code: str | None = None) -> list[str]:
    """Return the command line of a sweep that ignores earlier ones; its evaluation executes `code` if given."""
    flags = [override for override in overrides if override.startswith("-")]
    rest = ["resume=false", *(override for override in overrides if not override.startswith("-"))]
    if code:  # patched in this process, so the runs must not have processes of their own
        return [sys.executable, "-c", WITH_FAULT.format(code=code), *flags, *rest, "hydra/launcher=basic"]
    return [sys.executable, str(CHECKOUT / "train.py"), *flags, *rest]


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(CHECKOUT / "src"), "COLUMNS": "140"}


def places(folder: Path, store: Path | str) -> tuple[str, str]:
    """Return the overrides for a sweep's folder and tracking database."""
    return (f"hydra.sweep.dir={folder}", f"tracking.uri=sqlite:///{store}")


def sweep(
    folder: Path,
    store: Path,
    *overrides: str,
    flags: tuple[str, ...] = ("-m",),
    code: str | None = None,
    expect: int = 0,
    run: Callable[..., Any] = warm.run,
) -> CompletedSweep:
    """Run a sweep, which must end with the exit status `expect`."""
    store = store if "dry_run=true" in overrides else stores.put(store)
    done = run(command(*flags, *QUICK, *overrides, *places(folder, store), code=code), env=environment())
    assert done.returncode == expect, done.stdout + done.stderr
    return CompletedSweep(folder, store, done.returncode, done.stdout, done.stderr)


def wait_until(condition: Callable[[], object], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def epoch_lines(run: Path) -> list[str]:
    """Return the lines of a run's metrics.jsonl, none if it does not exist yet."""
    path = run / layout.METRICS
    return path.read_text().splitlines() if path.exists() else []


def kill_workers(folder: Path) -> None:
    """Kill the workers of a sweep."""
    for beat in folder.glob(f"*/{layout.BEAT}"):
        with suppress(ProcessLookupError):  # a worker ends when its sweep is gone
            os.kill(json.loads(beat.read_text())["pid"], signal.SIGKILL)


def study_of(folder: Path, name: str) -> optuna.Study:
    storage = optuna.storages.JournalStorage(JournalFileBackend(str(folder / layout.STUDY)))
    return optuna.load_study(study_name=name, storage=storage)


def shared_study(storage: object) -> optuna.Study:
    """Return the only study in a storage, given by URL or file."""
    backend = storage_of(compose("search=tpe", f"search.storage='{storage}'").search, None).backend
    (study,) = optuna.get_all_study_summaries(backend)
    return optuna.load_study(study_name=study.study_name, storage=backend)


def end_statuses(run: Path) -> list[str]:
    """Return the statuses with which a run ended, one for each time it was executed."""
    return [note["status"] for note, _ in journal.entries(run) if note["op"] == "end"]


def final_results(folder: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((folder / "results.json").read_text())
    return found


def trial_results(folder: Path) -> list[dict[str, Any]]:
    """Return the results of a search's trials, without the confirmations."""
    return [run for run in final_results(folder) if "trial" in run["choices"]]


def without_costs(metrics: Mapping[str, float]) -> dict[str, float]:
    return {key: value for key, value in metrics.items() if not key.startswith("cost/")}


def metrics_by_name(folder: Path) -> dict[str, dict[str, float]]:
    """Return the metrics of every run by its name, without costs."""
    return {run["name"]: without_costs(run["metrics"]) for run in final_results(folder)}
