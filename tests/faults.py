"""Everything that can happen to a sweep, and what is left of it afterwards: `python tests/faults.py [--long]`.

Sweeps are killed at random instants and inside their writes, starved of disk, started in crowds, and their files are
damaged bit by bit. Afterwards the same command must end with the bits of a sweep that nothing ever happened to: nothing
lost, nothing twice. Every part says how many faults it tried, how many were survived, and how many were not.
"""

from __future__ import annotations

import argparse
import builtins
import hashlib
import io
import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

CHECKOUT = Path(__file__).resolve().parents[1]
if __name__ == "__main__":
    sys.path.insert(0, str(CHECKOUT / "src"))
    os.environ["OMP_NUM_THREADS"] = "1"

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
            f"\n    {note}" for note in self.notes[:5]
        )


@dataclass(frozen=True)
class Lab:
    """A place for the sweeps of one experiment: folders, MLflow's store, and the store of features."""

    root: Path

    def arguments(self, name: str, *more: str) -> list[str]:
        """Return the command line of a sweep in the folder `name`."""
        places = (f"tracking.uri=sqlite:///{self.root}/mlflow.db", f"store.path={self.root}/store")
        return ["-m", *TINY, *places, f"hydra.sweep.dir={self.root}/{name}", *more]

    def start(self, arguments: Sequence[str], *, fault: Callable[[], object] | None = None) -> int:
        """Start a sweep in a process group of its own, forked from this one, which has loaded everything."""
        pid = os.fork()
        if pid:
            return pid
        status = 70
        try:
            os.setsid()
            log = os.open(self.root / "log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(log, 1)
            os.dup2(log, 2)
            sys.argv = [str(CHECKOUT / "train.py"), *arguments]
            if fault is not None:
                fault()
            from frostline.cli import main

            main()
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

    def result(self, name: str) -> dict[str, Any]:
        """Return what the sweep in the folder `name` says of each of its runs, times left out."""
        found = {}
        for entry in json.loads((self.root / name / "results.json").read_text()):
            folder = Path(entry["folder"])
            weights = (folder / "best.safetensors").read_bytes()
            found[entry["name"]] = {
                "status": entry["status"],
                "metrics": {key: value for key, value in entry["metrics"].items() if not key.startswith("cost/")},
                "epochs": [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()],
                "weights": hashlib.sha256(weights).hexdigest(),
            }
        return found

    def problem(self, name: str, expected: dict[str, Any]) -> str | None:
        """Return what is missing, different or there twice after the sweep `name`; None if all is as `expected`."""
        try:
            found = self.result(name)
        except (OSError, ValueError) as error:
            return f"{name}: {error}"
        for run, facts in expected.items():
            if found.get(run) != facts:
                parts = [part for part in facts if found.get(run, {}).get(part) != facts[part]]
                return f"{name}: {run}: other {', '.join(parts)}"
        return self.record_problem(name, expected)

    def record_problem(self, name: str, expected: dict[str, Any]) -> str | None:
        """Return what is wrong with MLflow's record: every run finished once, every point there once."""
        with sqlite3.connect(self.root / "mlflow.db") as database:
            runs = database.execute(
                "select r.run_uuid, r.name, r.status from runs r join tags t on t.run_uuid = r.run_uuid"
                " where t.key = 'frostline.digest' and r.lifecycle_stage = 'active'"
            ).fetchall()
            points = database.execute("select run_uuid, key, step, value from metrics").fetchall()
        done = {run: label for run, label, status in runs if status == "FINISHED"}
        if Counter(done.values()) != Counter(list(expected)):
            return f"{name}: MLflow has {Counter(done.values())}"
        if still := [label for _, label, status in runs if status == "RUNNING"]:
            return f"{name}: MLflow believes that {still} run"
        for run, label in done.items():
            told = sorted((step, key, value) for own, key, step, value in points if own == run and step > 0)
            true = sorted(
                (line["epoch"], k, v) for line in expected[label]["epochs"] for k, v in line.items() if "/" in k
            )
            if told != true:
                return f"{name}: MLflow's points of {label} are others"
        return None


def kill_at(number: int, root: Path) -> Callable[[], None]:
    """Return what makes a process kill itself in its write `number` under `root`; 0 only counts them.

    Files are left behind as they are at that moment: just emptied, written but not yet renamed, or not on disk yet.
    """
    seen = 0

    def strike() -> None:
        nonlocal seen
        seen += 1
        if number == 0:
            (root / "writes").write_bytes(str(seen).encode()) if seen % 5 == 0 else None
        elif seen == number:
            os.killpg(0, signal.SIGKILL)

    def opening(function: Any) -> Any:
        def call(file: Any, mode: str = "r", *rest: Any, **options: Any) -> Any:
            opened = function(file, mode, *rest, **options)
            if set(mode) & set("wax+") and str(file).startswith(str(root)) and not str(file).endswith("writes"):
                strike()
            return opened

        return call

    def before(function: Any) -> Any:
        def call(*arguments: Any, **options: Any) -> Any:
            strike()
            return function(*arguments, **options)

        return call

    def install() -> None:
        builtins.open = io.open = opening(io.open)  # type: ignore[assignment]
        for name in ("fsync", "replace", "rename", "ftruncate", "link", "mkdir"):
            setattr(os, name, before(getattr(os, name)))

    return install


def undisturbed(root: Path) -> tuple[dict[str, Any], int, float]:
    """Return what a sweep ends with to which nothing happens, how often it writes, and how long it takes."""
    (root / "calm").mkdir()
    lab = Lab(root / "calm")
    began = time.monotonic()
    status = lab.run("sweep", "hydra/launcher=basic", fault=kill_at(0, lab.root))
    assert status == 0, (lab.root / "log.txt").read_text()
    seconds = time.monotonic() - began
    expected = lab.result("sweep")
    assert (problem := lab.record_problem("sweep", expected)) is None, problem
    return expected, int((lab.root / "writes").read_text()), seconds


def kills(root: Path, count: int, calm: dict[str, Any], seconds: float, *more: str) -> Tally:
    """Kill sweeps at random instants, then type the same command again, up to twice killed once more."""
    tally = Tally(f"kills at random instants ({' '.join(more)})")
    draw = random.Random(count)
    for number in range(count):
        (place := root / f"kill-{len(more[0])}-{number}").mkdir()
        lab = Lab(place)
        for attempt in range(draw.choice((1, 1, 2))):
            pid = lab.start(lab.arguments(f"sweep{attempt}", *more))
            lab.wait(pid, draw.uniform(0.05, 1.0) * seconds)
        tally.add(finished(lab, calm, *more))
        if tally.tried == tally.survived:
            shutil.rmtree(place)
    return tally


def writes(root: Path, count: int, calm: dict[str, Any], there: int) -> Tally:
    """Kill sweeps inside their writes, evenly spread over all of them, then type the same command again."""
    tally = Tally(f"kills inside a write (of {there})")
    for number in range(count):
        deadly = 1 + number * there // count
        (place := root / f"write-{deadly}").mkdir()
        lab = Lab(place)
        lab.run("sweep0", "hydra/launcher=basic", fault=kill_at(deadly, place))
        problem = finished(lab, calm, "hydra/launcher=basic")
        tally.add(problem and f"write {deadly}: {problem}")
    return tally


def finished(lab: Lab, calm: dict[str, Any], *more: str) -> str | None:
    """Type the same command again, in another folder; return what is then not as it should be."""
    status = lab.run("again", *more)
    return lab.problem("again", calm) if status == 0 else f"again: exit status {status}"


def saves(root: Path, count: int) -> Tally:
    """Kill a process at random instants while it does nothing but save checkpoints; one must be readable."""
    import torch

    from frostline import checkpoint

    tally, draw = Tally("kills inside a save"), random.Random(0)
    (folder := root / "saves").mkdir()
    checkpoint.save(folder, {"a": torch.zeros(100_000)}, {"number": 0})
    for _ in range(count):
        before = checkpoint.load(folder, lambda line: None)
        if (pid := os.fork()) == 0:
            for number in range(before[1]["number"] + 1 if before else 1, 10**6):
                checkpoint.save(folder, {"a": torch.full((100_000,), float(number))}, {"number": number})
        time.sleep(draw.uniform(0.002, 0.05))
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        after = checkpoint.load(folder, lambda line: None)
        lost = not before or not after or after[1]["number"] < before[1]["number"]
        wrong = after and not bool((after[0]["a"] == after[1]["number"]).all())
        tally.add("nothing readable" if lost else "another content" if wrong else None)
    return tally


def flips(root: Path, count: int) -> Tally:
    """Flip single bits in checkpoints, in entries of the store, and in the best weights of runs."""
    import torch

    from frostline import checkpoint, predictor
    from frostline.config import UserError
    from frostline.store import Store

    tally, draw = Tally("flipped bits"), random.Random(1)
    (folder := root / "flips").mkdir()
    checkpoint.save(folder, {"a": torch.randn(500)}, {"number": 1})
    said: list[str] = []
    key = hashlib.sha256(b"key").hexdigest()

    def make(writer: Any) -> dict[str, Any]:
        writer.tensor("rows", (500,), torch.float32).fill_(0.5)
        return {"about": "it"}

    def entry() -> Any:
        return Store(folder, budget=10**9, say=said.append).get("pixels", key, make, about="it")

    entry()
    best = shutil.copytree(root / "calm" / "sweep" / "0", folder / "run") / "best.safetensors"

    def predicted() -> bool:
        try:
            predictor.load(best.parent, device="cpu")
        except UserError:
            return True
        return False

    checks: dict[Path, Callable[[], bool]] = {
        folder / "checkpoint" / "000001.safetensors": lambda: checkpoint.load(folder, said.append) is None,
        folder / "checkpoint" / "000001.sha256": lambda: checkpoint.load(folder, said.append) is None,
        folder / "pixels" / key[:2] / key / "rows": lambda: entry().made,
        folder / "pixels" / key[:2] / key / "entry.jsonl": lambda: entry().made,
        best: predicted,
    }
    for number in range(count):
        path, noticed = list(checks.items())[number % len(checks)]
        content = path.read_bytes()
        at = draw.randrange(8 * len(content))
        flipped = bytearray(content)
        flipped[at // 8] ^= 1 << at % 8
        path.write_bytes(flipped)
        tally.add(None if noticed() else f"bit {at} of {path.name} was not noticed")
        path.write_bytes(content)
    return tally


def full_disk(root: Path, calm: dict[str, Any]) -> Tally:
    """Run sweeps on file systems that are full after so many bytes; then with more room; needs root."""
    tally = Tally("full file systems")
    for size in (200, 1500, 4000):
        (place := root / f"disk-{size}").mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", f"size={size}k", "tmpfs", str(place)]
        if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
            tally.notes.append("not tried: no right to mount a file system")
            return tally
        try:
            lab = Lab(place)
            status = lab.run("sweep0", "hydra/launcher=basic")
            subprocess.run(["mount", "-o", "remount,size=500m", str(place)], check=True)
            problem = finished(lab, calm, "hydra/launcher=basic")
            tally.add(problem and f"{size} kB: exit {status}, then {problem}")
        finally:
            subprocess.run(["umount", "-l", str(place)], check=False)
    return tally


def crowd(root: Path, count: int, calm: dict[str, Any]) -> Tally:
    """Start sweeps at once on a store that does not exist yet."""
    tally = Tally(f"{count} sweeps at once on an empty store")
    (place := root / f"crowd-{count}").mkdir()
    lab = Lab(place)
    pids = [
        lab.start(lab.arguments(f"sweep{n}", "hydra/launcher=basic", f"experiment_name=e{n}")) for n in range(count)
    ]
    for number, pid in enumerate(pids):
        status = lab.wait(pid, LIMIT)
        try:
            right = status == 0 and lab.result(f"sweep{number}") == calm
        except (OSError, ValueError):
            right = False
        tally.add(None if right else f"sweep{number}: exit status {status}")
    return tally


def same_second(root: Path, count: int) -> Tally:
    """Start sweeps at once without a folder of their own: each must find one that is nobody else's."""
    tally = Tally(f"{count} sweeps in the same second")
    (place := root / "second").mkdir()
    lab = Lab(place)
    arguments = [argument for argument in lab.arguments("none") if not argument.startswith("hydra.sweep.dir")]
    sweeps = f"hydra.sweep.dir={place}/${{now:%H-%M}}"
    pids = [
        lab.start([*arguments, "dry_run=true", "hydra/launcher=basic", sweeps if number % 2 else f"{sweeps}-{number}"])
        for number in range(count)
    ]
    statuses = [lab.wait(pid, LIMIT) for pid in pids]
    shared = statuses[1::2]
    for status in statuses[::2]:
        tally.add(None if status == 0 else f"exit status {status} in a folder of its own")
    for number, status in enumerate(sorted(shared)):
        right = status == 0 if number == 0 else status == 2
        tally.add(None if right else f"exit status {status} in a folder that all wanted")
    return tally


def preload() -> None:
    """Load what every sweep needs, once."""
    import torch

    torch.set_num_threads(1)
    from frostline import environment, experiment, server  # noqa: F401

    environment._default_threads()
    server.load()


def suite(root: Path, *, long: bool) -> list[Tally]:
    """Try everything, in `root`; the short one takes less than a minute, the long one about an hour on two cores."""
    preload()
    calm, there, seconds = undisturbed(root)
    basic, workers = "hydra/launcher=basic", "hydra.launcher.workers=2"
    parts: list[Callable[[], Tally]] = [
        lambda: saves(root, 200 if long else 40),
        lambda: flips(root, 300),
        lambda: kills(root, 25 if long else 1, calm, seconds, basic),
        lambda: writes(root, 200 if long else 2, calm, there),
    ]
    if long:
        parts += [
            lambda: kills(root, 25, calm, 2 * seconds, workers),
            lambda: full_disk(root, calm),
            lambda: crowd(root, 16, calm),
            lambda: same_second(root, 20),
        ]
    tallies = []
    for part in parts:
        tallies.append(part())
        print(tallies[-1], flush=True)  # noqa: T201
    return tallies


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--long", action="store_true")
    with tempfile.TemporaryDirectory() as folder:
        found = suite(Path(folder), long=parser.parse_args().long)
    sys.exit(any(tally.tried != tally.survived for tally in found))
