"""A place to try things on whole sweeps: they are forked from a process that has loaded everything, and compared."""

from __future__ import annotations

import gc
import hashlib
import json
import os
import shutil
import signal
import sqlite3
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import stores
import warm

CHECKOUT = Path(__file__).resolve().parents[1]

TINY = (
    *("freeze=head,full", "lr=1e-2,1e-3", "epochs=2", "data.limit=40", "batch_size=20", "model.image_size=32"),
    *("data.test_fraction=0.05", "data.val_fraction=0.05", "threads=1", "tracking.system_metrics=false"),
)
LIMIT = 300.0
"""Seconds after which a sweep counts as hung."""


@dataclass
class Tally:
    """What became of the faults of one kind."""

    what: str
    tried: int = 0
    survived: int = 0
    notes: list[str] = field(default_factory=list)

    def add(self, problem: str | None) -> None:
        """Count a fault; `problem` says what was lost."""
        self.tried += 1
        self.survived += problem is None
        if problem is not None:
            self.notes.append(problem)

    def __str__(self) -> str:
        lost = self.tried - self.survived
        return f"{self.what}: {self.tried} tried, {self.survived} survived, {lost} lost" + "".join(
            f"\n    {note}" for note in self.notes[:30]
        )


@dataclass(frozen=True)
class Lab:
    """A place for the sweeps of one experiment: folders, MLflow's store, and the store of features."""

    root: Path
    uri: str | None = None
    """Of MLflow's store, else a database in `root`."""
    grid: tuple[str, ...] = ()
    """What its sweeps try, where that is not what `TINY` says."""

    def arguments(self, name: str, *more: str) -> list[str]:
        """Return the command line of a sweep in the folder `name`; of a key that is given twice `more` counts."""
        uri = self.uri or f"sqlite:///{self.root}/mlflow.db"
        places = (f"tracking.uri={uri}", f"store.path={self.root}/store", f"hydra.sweep.dir={self.root}/{name}")
        return ["-m", *{one.partition("=")[0]: one for one in (*TINY, *places, *self.grid, *more)}.values()]

    def start(self, arguments: Sequence[str], *, fault: Callable[[], object] | None = None) -> int:
        """Start a sweep in a process group of its own, forked from this one, which has loaded everything."""

        def program() -> None:
            sys.argv = [str(CHECKOUT / "train.py"), *arguments]
            if fault is not None:
                fault()
            from frostline.cli import main
            from frostline.sweeps import pool

            pool.subprocess = warm.forking_subprocess()
            main()

        return self.fork(program)

    def fork(self, program: Callable[[], object]) -> int:
        """Start a process group of its own that carries out `program`, and return its id."""
        pid = os.fork()
        if pid:
            return pid
        status = 70
        try:
            os.setpgid(0, 0)
            warm.renew_threads()
            signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the suite itself may be run under nohup
            log = os.open(self.root / "log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(log, 1)
            os.dup2(log, 2)
            program()
            status = 0
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else 1
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)

    def run(self, name: str, *more: str, fault: Callable[[], object] | None = None) -> int:
        """Return the exit status of a sweep, negative for a signal; one that hangs is killed."""
        return self.wait(self.start(self.arguments(name, *more), fault=fault), LIMIT)

    def wait(self, pid: int, seconds: float) -> int:
        """Return the exit status of a process; after so many seconds its whole group is killed."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                return os.waitstatus_to_exitcode(status)
            time.sleep(0.01)
        os.killpg(pid, signal.SIGKILL)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    def log(self) -> str:
        """Return what its sweeps printed."""
        return (self.root / "log.txt").read_text()

    def result(self, name: str, *, files: bool = True) -> dict[str, Any]:
        """Return what the sweep in the folder `name` says of each of its runs, times left out; and their `files`."""
        found = {}
        for entry in json.loads((self.root / name / "results.json").read_text()):
            folder = Path(entry["folder"])
            found[entry["name"]] = {
                "status": entry["status"],
                "metrics": {key: value for key, value in entry["metrics"].items() if not key.startswith("cost/")},
            }
            if files:
                found[entry["name"]] |= {
                    "epochs": [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()],
                    "weights": hashlib.sha256((folder / "best.safetensors").read_bytes()).hexdigest(),
                }
        return found

    def problem(self, name: str, expected: dict[str, Any], *, files: bool = True) -> str | None:
        """Return what is missing, different or there twice after the sweep `name`; None if all is as `expected`."""
        try:
            found = self.result(name, files=files)
        except (OSError, ValueError) as error:
            return f"{name}: {error}"
        for run, facts in expected.items():
            if found.get(run) != facts:
                parts = [part for part in found.get(run, facts) if found.get(run, {}).get(part) != facts[part]]
                if parts:
                    return f"{name}: {run}: other {', '.join(parts)}"
        return self.record_problem(name, expected)

    def record_problem(self, name: str, expected: dict[str, Any], times: int = 1) -> str | None:
        """Return what is wrong with MLflow's record: each run finished so many times, each point once, in order."""
        with closing(sqlite3.connect(self.root / "mlflow.db")) as opened:
            runs = opened.execute(
                "select r.run_uuid, r.name, r.status from runs r join tags t on t.run_uuid = r.run_uuid"
                " where t.key = 'frostline.digest' and r.lifecycle_stage = 'active'"
            ).fetchall()
            points = opened.execute("select run_uuid, key, step, value from metrics order by rowid").fetchall()
        found = Counter((label, status) for _, label, status in runs if status != "FAILED")  # those are tried anew
        if found != Counter({(run, "FINISHED"): times for run in expected}):
            return f"{name}: MLflow has {sorted(found.elements())}"
        for run, label in [(run, label) for run, label, status in runs if status == "FINISHED"]:
            told = [(step, key, value) for own, key, step, value in points if own == run and step > 0]
            true = [(line["epoch"], k, v) for line in expected[label]["epochs"] for k, v in line.items() if "/" in k]
            if sorted(told) != sorted(true):
                return f"{name}: MLflow's points of {label} are others"
            if [step for step, _, _ in told] != sorted(step for step, _, _ in told):
                return f"{name}: MLflow's points of {label} came out of order"
        return None


def preload() -> None:
    """Load what every sweep needs, once."""
    import matplotlib.backends.backend_agg  # noqa: F401
    import torch

    torch.set_num_threads(1)
    import frostline.runs.run  # noqa: F401
    from frostline.core import machine
    from frostline.data import sources
    from frostline.report import html, plots  # noqa: F401
    from frostline.tracking import server

    machine._default_threads()
    server.load()
    sources._read_digits()
    gc.collect()
    gc.freeze()  # what the collector does not look at is not copied for each who is forked


@dataclass(frozen=True)
class Calm:
    """What a sweep ends with to which nothing happens."""

    expected: dict[str, Any]
    writes: int
    """How often it writes."""
    seconds: float
    """How long it takes."""
    database: Path
    """A store of MLflow's as it is before its first sweep."""
    grid: tuple[str, ...]
    """What it tries, where that is not what `TINY` says."""


def undisturbed(root: Path, fault: Callable[[Path], Callable[[], object]], grid: tuple[str, ...] = ()) -> Calm:
    """Return what a sweep in `root/calm` ends with; what `fault` returns leaves the number of its writes there."""
    (root / "calm").mkdir()
    lab, database = Lab(root / "calm", grid=grid), root / "empty.db"
    assert lab.wait(lab.fork(lambda: stores.put(database)), LIMIT) == 0, lab.log()
    shutil.copy(database, lab.root / "mlflow.db")
    began = time.monotonic()
    status = lab.run("sweep", "hydra/launcher=basic", fault=fault(lab.root))
    seconds = time.monotonic() - began
    assert status == 0, lab.log()
    expected = lab.result("sweep")
    assert (problem := lab.record_problem("sweep", expected)) is None, problem
    return Calm(expected, int((lab.root / "writes").read_text()), seconds, database, grid)
