"""Whole sweeps under faults: forked from a process that has imported everything, and compared with a reference."""

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
    """Counts of the faults of one kind."""

    what: str
    tried: int = 0
    survived: int = 0
    notes: list[str] = field(default_factory=list)

    def add(self, problem: str | None) -> None:
        """Count a fault; `problem` says what was lost, None if nothing."""
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
    """The folder of one experiment: its sweeps, MLflow's database, and the store of features."""

    root: Path
    uri: str | None = None
    """Tracking URI; the default is a database in `root`."""
    grid: tuple[str, ...] = ()
    """Overrides of `TINY` for its sweeps."""

    def arguments(self, name: str, *more: str) -> list[str]:
        """Return the command line of a sweep in the folder `name`; `more` overrides earlier values of a key."""
        uri = self.uri or f"sqlite:///{self.root}/mlflow.db"
        places = (f"tracking.uri={uri}", f"store.path={self.root}/store", f"hydra.sweep.dir={self.root}/{name}")
        return ["-m", *{one.partition("=")[0]: one for one in (*TINY, *places, *self.grid, *more)}.values()]

    def start(self, arguments: Sequence[str], *, fault: Callable[[], object] | None = None) -> int:
        """Start a sweep in a forked process group of its own; return its id."""

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
        """Run `program` in a forked process group of its own, and return its id."""
        pid = os.fork()
        if pid:
            return pid
        status = 70
        try:
            os.setpgid(0, 0)
            warm.renew_threads()
            signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the suite may run under nohup
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
        """Return the exit status of a sweep, negative for a signal; it is killed after `LIMIT` seconds."""
        return self.wait(self.start(self.arguments(name, *more), fault=fault), LIMIT)

    def wait(self, pid: int, seconds: float) -> int:
        """Return the exit status of a process; its whole group is killed after `seconds`."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                return os.waitstatus_to_exitcode(status)
            time.sleep(0.01)
        os.killpg(pid, signal.SIGKILL)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    def log(self) -> str:
        """Return the output of its sweeps."""
        return (self.root / "log.txt").read_text()

    def result(self, name: str, *, files: bool = True) -> dict[str, Any]:
        """Return status, metrics (without costs) and the contents of `files` of each run of the sweep `name`."""
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
        """Return what differs from `expected` after the sweep `name`, or is recorded twice; None if nothing."""
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
        """Return what is wrong in MLflow; None if each run finished `times` times, its points once and in order."""
        with closing(sqlite3.connect(self.root / "mlflow.db")) as opened:
            runs = opened.execute(
                "select r.run_uuid, r.name, r.status from runs r join tags t on t.run_uuid = r.run_uuid"
                " where t.key = 'frostline.digest' and r.lifecycle_stage = 'active'"
            ).fetchall()
            points = opened.execute("select run_uuid, key, step, value from metrics order by rowid").fetchall()
        found = Counter((label, status) for _, label, status in runs if status != "FAILED")  # failed runs are repeated
        if found != Counter({(run, "FINISHED"): times for run in expected}):
            return f"{name}: MLflow has {sorted(found.elements())}"
        for run, label in [(run, label) for run, label, status in runs if status == "FINISHED"]:
            logged = [(step, key, value) for own, key, step, value in points if own == run and step > 0]
            true = [(line["epoch"], k, v) for line in expected[label]["epochs"] for k, v in line.items() if "/" in k]
            if sorted(logged) != sorted(true):
                return f"{name}: MLflow's points of {label} are others"
            if [step for step, _, _ in logged] != sorted(step for step, _, _ in logged):
                return f"{name}: MLflow's points of {label} came out of order"
        return None


def preload() -> None:
    """Import what every sweep needs, once."""
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
    gc.freeze()  # frozen objects are not written by the collector, so forks share their memory


@dataclass(frozen=True)
class Reference:
    """The result of a sweep without faults."""

    expected: dict[str, Any]
    writes: int
    """Number of its writes."""
    seconds: float
    """Its duration in seconds."""
    database: Path
    """An empty MLflow database."""
    grid: tuple[str, ...]
    """Its overrides of `TINY`."""


def reference_sweep(root: Path, fault: Callable[[Path], Callable[[], object]], grid: tuple[str, ...] = ()) -> Reference:
    """Return the result of a sweep in `root/reference`; the function that `fault` returns counts its writes there."""
    (root / "reference").mkdir()
    lab, database = Lab(root / "reference", grid=grid), root / "empty.db"
    assert lab.wait(lab.fork(lambda: stores.put(database)), LIMIT) == 0, lab.log()
    shutil.copy(database, lab.root / "mlflow.db")
    began = time.monotonic()
    status = lab.run("sweep", "hydra/launcher=basic", fault=fault(lab.root))
    seconds = time.monotonic() - began
    assert status == 0, lab.log()
    expected = lab.result("sweep")
    assert (problem := lab.record_problem("sweep", expected)) is None, problem
    return Reference(expected, int((lab.root / "writes").read_text()), seconds, database, grid)
