"""Fault injection for sweeps: `python tests/faults.py [--long] [PART]`.

Sweeps are killed at random times and inside their writes, run out of disk space, are started many at once, and bits of
their files are flipped. Afterwards the same command must give the bits of a sweep without faults: nothing lost, nothing
twice. Every part prints how many faults it tried, how many were survived, and how many were not.
"""

from __future__ import annotations

import argparse
import builtins
import hashlib
import io
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import outages
import signals
import tampering
from lab import CHECKOUT, LIMIT, Lab, Reference, Tally, preload, reference_sweep

BASIC, WORKERS = "hydra/launcher=basic", "hydra.launcher.workers=2"
SHORT = ("lr=1e-2",)
"""Overrides of the short suite: two runs."""


def kill_at(number: int, root: Path) -> Callable[[], None]:
    """Return a function that makes a process kill itself in its write `number` under `root`; 0 only counts writes.

    Files stay as they are at that moment: truncated, written but not renamed, or not flushed to disk.
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


def lab_of(root: Path, name: str, reference: Reference, *, empty: bool) -> Lab:
    """Return a new lab called `name`, with an MLflow database unless it is to be `empty`."""
    (place := root / name).mkdir()
    if not empty:
        shutil.copy(reference.database, place / "mlflow.db")
    return Lab(place, grid=reference.grid)


def kills(root: Path, numbers: Iterable[int], reference: Reference, launcher: str, seconds: float) -> Tally:
    """Kill sweeps at random times within `seconds`, some twice, then run the same command again."""
    tally = Tally(f"kills at random times ({launcher})")
    for number in numbers:
        draw = random.Random(f"{launcher} {number}")
        lab = lab_of(root, f"kill-{len(launcher)}-{number}", reference, empty=number % 5 == 0)
        for attempt in range(draw.choice((1, 1, 2))):
            pid = lab.start(lab.arguments(f"sweep{attempt}", launcher))
            lab.wait(pid, draw.uniform(0.05, 1.0) * seconds)
        note(tally, lab, finished(lab, reference, launcher, f"sweep{attempt}" if number % 2 else "again"))
    return tally


def writes(root: Path, numbers: Iterable[int], reference: Reference, count: int) -> Tally:
    """Kill sweeps inside `count` writes, evenly spread over all, then run the same command again.

    A `count` of 1 is the write in the middle.
    """
    tally = Tally(f"kills inside a write (of {reference.writes})")
    for number in numbers:
        deadly = 1 + (2 * number + 1) * reference.writes // (2 * count)
        lab = lab_of(root, f"write-{deadly}", reference, empty=number % 10 == 1)
        lab.run("sweep0", BASIC, fault=kill_at(deadly, lab.root))
        note(tally, lab, finished(lab, reference, BASIC, "again" if number % 3 else "sweep0"))
    return tally


def finished(lab: Lab, reference: Reference, launcher: str, name: str = "again") -> str | None:
    """Run the same command again, for the same or another folder; return what is wrong then."""
    status = lab.run(name, launcher)
    return lab.problem(name, reference.expected) if status == 0 else f"{name}: exit status {status}"


def note(tally: Tally, lab: Lab, problem: str | None) -> None:
    """Count a fault, and remove the lab if it was survived."""
    tally.add(problem and f"{lab.root.name}: {problem}")
    if problem is None:
        shutil.rmtree(lab.root)


def saves(root: Path, numbers: Iterable[int]) -> Tally:
    """Kill a process at random times while it saves checkpoints; one of them must be readable."""
    import torch

    from frostline.training import checkpoint
    from small import last_checkpoint

    tally, draw = Tally("kills inside a save"), random.Random(0)
    (folder := root / "saves").mkdir()
    checkpoint.save(folder / "checkpoint", {"a": torch.zeros(100_000)}, {"number": 0})
    for _ in numbers:
        before = last_checkpoint(folder, lambda line: None)
        if (pid := os.fork()) == 0:
            for number in range(before[1]["number"] + 1 if before else 1, 10**6):
                checkpoint.save(folder / "checkpoint", {"a": torch.full((100_000,), float(number))}, {"number": number})
        time.sleep(draw.uniform(0.002, 0.05))
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        after = last_checkpoint(folder, lambda line: None)
        lost = not before or not after or after[1]["number"] < before[1]["number"]
        wrong = after and not bool((after[0]["a"] == after[1]["number"]).all())
        tally.add("nothing readable" if lost else "another content" if wrong else None)
    return tally


def flips(root: Path, numbers: Iterable[int]) -> Tally:
    """Flip single bits in checkpoints, in entries of the store, and in the best weights of runs."""
    import torch

    from frostline.core.errors import UserError
    from frostline.runs import predict
    from frostline.store.store import Store
    from frostline.training import checkpoint
    from small import last_checkpoint

    tally, draw = Tally("flipped bits"), random.Random(1)
    (folder := root / "flips").mkdir()
    checkpoint.save(folder / "checkpoint", {"a": torch.randn(500)}, {"number": 1})
    said: list[str] = []
    key = hashlib.sha256(b"key").hexdigest()

    def make(writer: Any) -> dict[str, Any]:
        writer.tensor("rows", (500,), torch.float32).fill_(0.5)
        return {"about": "it"}

    def entry() -> Any:
        return Store(folder, budget=10**9, say=said.append).get("pixels", key, make, about="it")

    entry()
    best = shutil.copytree(root / "reference" / "sweep" / "0", folder / "run") / "best.safetensors"

    def predicted() -> bool:
        try:
            predict.load(best.parent, device="cpu")
        except UserError:
            return True
        return False

    checks: dict[Path, Callable[[], bool]] = {
        folder / "checkpoint" / "000001.safetensors": lambda: last_checkpoint(folder, said.append) is None,
        folder / "checkpoint" / "000001.sha256": lambda: last_checkpoint(folder, said.append) is None,
        folder / "pixels" / key[:2] / key / "rows": lambda: entry().made,
        folder / "pixels" / key[:2] / key / "entry.jsonl": lambda: entry().made,
        best: predicted,
    }
    for number in numbers:
        path, noticed = list(checks.items())[number % len(checks)]
        content = path.read_bytes()
        at = draw.randrange(8 * len(content))
        flipped = bytearray(content)
        flipped[at // 8] ^= 1 << at % 8
        path.write_bytes(flipped)
        tally.add(None if noticed() else f"bit {at} of {path.name} was not noticed")
        path.write_bytes(content)
    return tally


def full_disk(root: Path, numbers: Iterable[int], reference: Reference) -> Tally:
    """Run sweeps on file systems that become full; then run them again with more space. Needs root."""
    tally = Tally("full file systems")
    for number in numbers:
        size = (200, 400, 800, 1500, 3000, 4000)[number]
        (place := root / f"disk-{size}").mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", f"size={size}k", "tmpfs", str(place)]
        if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
            tally.notes.append("not tried: no permission to mount a file system")
            return tally
        try:
            lab = Lab(place)
            status = lab.run("sweep0", BASIC)
            subprocess.run(["mount", "-o", "remount,size=500m", str(place)], check=True)
            problem = finished(lab, reference, BASIC)
            tally.add(problem and f"{size} kB: exit {status}, then {problem}")
        finally:
            subprocess.run(["umount", "-l", str(place)], check=False)
    return tally


def crowd(root: Path, numbers: Iterable[int], reference: Reference, size: int) -> Tally:
    """Start `size` sweeps of one run at once, without an existing database, once for each number."""
    tally = Tally(f"{size} sweeps at once on an empty store")
    name, expected = next(iter(reference.expected.items()))
    one = (BASIC, "freeze=head", "lr=1e-2")
    for number in numbers:
        (place := root / f"crowd-{number}").mkdir()
        lab = Lab(place)
        pids = [lab.start(lab.arguments(f"sweep{n}", *one, f"experiment_name=e{n}")) for n in range(size)]
        for each, pid in enumerate(pids):
            status = lab.wait(pid, LIMIT)
            try:
                right = status == 0 and lab.result(f"sweep{each}") == {name: expected}
            except (OSError, ValueError):
                right = False
            tally.add(None if right else f"crowd {number}, sweep{each}: exit status {status}")
        problem = lab.record_problem(f"crowd {number}", {name: expected}, times=size)
        if problem:
            tally.notes.append(problem)
        elif tally.tried == tally.survived:
            shutil.rmtree(place)
    return tally


def same_second(root: Path, count: int) -> Tally:
    """Start sweeps in the same second: of those that name the same folder only one may run."""
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
        tally.add(None if right else f"exit status {status} in the folder that all named")
    return tally


def parts(root: Path, reference: Reference, *, long: bool) -> dict[str, tuple[int, Callable[[Iterable[int]], Tally]]]:
    """Return the parts by name: the number of faults, and a function that tries those with given numbers."""
    short: dict[str, tuple[int, Callable[[Iterable[int]], Tally]]] = {
        "saves": (200 if long else 15, lambda numbers: saves(root, numbers)),
        "flips": (300 if long else 30, lambda numbers: flips(root, numbers)),
        "writes": (200 if long else 1, lambda numbers: writes(root, numbers, reference, 200 if long else 1)),
    }
    if not long:
        return short
    return {
        **short,
        "kills": (25, lambda numbers: kills(root, numbers, reference, BASIC, reference.seconds)),
        "workers": (25, lambda numbers: kills(root, numbers, reference, WORKERS, 2 * reference.seconds + 2)),
        "signals": (4 * len(signals.STRIKES), lambda numbers: signals.signals(root, numbers, reference)),
        "disk": (6, lambda numbers: full_disk(root, numbers, reference)),
        "crowd": (20, lambda numbers: crowd(root, numbers, reference, 16)),
        "moves": (30, lambda numbers: tampering.moves(root, numbers, reference, kill_at)),
        "edits": (
            len(tampering.FILES) * len(tampering.HOW),
            lambda numbers: tampering.edits(root, numbers, reference, kill_at),
        ),
        "outages": (len(outages.SCENES), lambda numbers: outages.outages(root, numbers, reference)),
        "second": (20, lambda numbers: same_second(root, len([*numbers]))),
    }


def main() -> int:
    """Try all parts, or those that are named: less than a minute; with `--long` about an hour on two cores."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", nargs="*", help="e.g. kills writes; default: all")
    parser.add_argument("--long", action="store_true", help="try everything, many times")
    parser.add_argument("--share", default="0/1", help="k/n: only every n-th fault, starting with the k-th")
    parser.add_argument("--keep", type=Path, help="a new folder, which keeps the labs of faults that were not survived")
    options = parser.parse_args()
    first, step = map(int, options.share.split("/"))
    preload()
    with tempfile.TemporaryDirectory() as folder:
        root = options.keep or Path(folder)
        root.mkdir(exist_ok=True)
        reference = reference_sweep(root, lambda place: kill_at(0, place), () if options.long else SHORT)
        lost = 0
        for name, (count, attempt) in parts(root, reference, long=options.long).items():
            if not options.part or name in options.part:
                tally = attempt(range(first, count, step))
                lost += tally.tried - tally.survived
                print(tally, flush=True)  # noqa: T201
    return 1 if lost else 0


if __name__ == "__main__":
    sys.path.insert(0, str(CHECKOUT / "src"))
    os.environ["OMP_NUM_THREADS"] = "1"
    sys.exit(main())
