"""Sweeps that are killed and then moved, edited or partly removed before the same command runs again."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

from lab import Lab, Reference, Tally

Strike = Callable[[int, Path], Callable[[], None]]
BASIC = "hydra/launcher=basic"
FILES = (
    *("sweep.json", "owner.json", "record.jsonl", "mirrored.json", "0/result.json", "0/record.jsonl"),
    "0/metrics.jsonl",
    *("0/mirrored.json", "0/provenance.json", "0/config.yaml", "0/alive.json", "0/plan.json"),
    *("1/record.jsonl", "1/mirrored.json", "1/metrics.jsonl", "1/provenance.json", "1/alive.json"),
    *("2/record.jsonl", "2/metrics.jsonl", "2/mirrored.json", "2/result.json", "2/checkpoint/000001.safetensors"),
    *("2/checkpoint/000001.sha256", "../pending/*.json", "0", "1", "2"),
)


def killed(root: Path, name: str, reference: Reference, strike: Strike, share: float) -> Lab:
    """Return a new lab with the sweep `sweep`, killed after this share of its writes."""
    (place := root / name).mkdir()
    shutil.copy(reference.database, place / "mlflow.db")
    lab = Lab(place)
    lab.run("sweep", BASIC, fault=strike(int(share * reference.writes), place))
    return lab


def finish(tally: Tally, lab: Lab, name: str, reference: Reference, what: str, *, files: bool = True) -> None:
    """Run the same command again for the folder `name`, and count the result."""
    before = len(lab.log())
    status = lab.run(name, BASIC)
    problem = lab.problem(name, reference.expected, files=files) if status == 0 else f"exit status {status}"
    if problem is None and "Traceback" in lab.log()[before:]:
        problem = "a traceback"
    tally.add(problem and f"{what}: {problem}")
    if problem is None:
        shutil.rmtree(lab.root)


def moves(root: Path, numbers: Iterable[int], reference: Reference, strike: Strike) -> Tally:
    """Move or copy a sweep's folder or the whole lab, and continue there or in a folder beside it."""
    tally = Tally("sweeps and projects moved or copied in the middle")
    for number in numbers:
        share, kind = (number // 5 + 1) / 7, number % 5
        lab = killed(root, f"move-{number}", reference, strike, share)
        name, place = "again", root / f"moved-{number}"
        if kind == 0:
            (lab.root / "sweep").rename(lab.root / "again")
        elif kind == 1:
            shutil.copytree(lab.root / "sweep", lab.root / "again")
        elif kind == 2:
            (lab.root / "sweep").rename(lab.root / "moved")
        else:
            (shutil.move if kind == 3 else shutil.copytree)(lab.root, place)
            shutil.rmtree(lab.root, ignore_errors=True)
            lab = Lab(place)
        finish(tally, lab, name, reference, f"{share:.0%}, kind {kind}")
        if kind > 2 and (root / f"move-{number}").exists():
            tally.notes.append(f"{number}: something was written to the old place")
    return tally


def edits(root: Path, numbers: Iterable[int], reference: Reference, strike: Strike) -> Tally:
    """Damage or remove a file of a killed sweep, then run the same command for the same or another folder."""
    tally = Tally("files edited, truncated or removed between a kill and the same command")
    for number in numbers:
        draw = random.Random(f"edit {number}")
        file, how = FILES[number % len(FILES)], number // len(FILES)
        lab = killed(root, f"edit-{number}", reference, strike, draw.uniform(0.55, 0.75))
        for path in lab.root.glob(f"sweep/{file}") if "*" not in file else lab.root.glob(file.removeprefix("../")):
            _tamper(path, how, draw)
        name = "again" if file == "owner.json" else draw.choice(("sweep", "again"))  # unowned: not taken over
        finish(tally, lab, name, reference, f"{file}, {HOW[how]}", files=file[0] not in "01")
    return tally


HOW = ("removed", "truncated", "emptied", "other JSON", "garbage", "nested")


def _tamper(path: Path, how: int, draw: random.Random) -> None:
    if path.is_dir() and how == 0:
        shutil.rmtree(path)
    elif path.is_dir():
        for inner in sorted(file for file in path.rglob("*") if file.is_file()):
            _tamper(inner, how, draw)
    elif how == 0:
        path.unlink()
    else:
        content = path.read_bytes()
        other = (
            b'{"op": 1, "status": [], "metrics": "x", "runs": 3, "tracker": {}, "uid": null, "folder": 7, "uri": {}}\n'
        )
        cut, deep = content[: draw.randrange(len(content) + 1)], b"[" * 100_000 + b"\n"
        path.write_bytes((cut, b"", other, draw.randbytes(200), deep)[how - 1])
