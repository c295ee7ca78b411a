"""Rows of measurements with their targets, stored in `results.json` and shown in `RESULTS.md`."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from frostline.core import project

_HEAD = """# Results

Written by `python benchmarks/run.py --device cpu` and `--device cuda`; nothing here was typed in. *Ours* is the program
itself. *tutorial*, *fair* and *limit* are the opponents in the files of these names. Opponents that would take hours
are measured on some batches and one validation of one run, and multiplied; what was run in full says so. Weights are
random and images synthetic: neither changes a speed. A virtual machine is not as fast every day: compare the two
sides of a row, which were measured in one process, not rows of different days. Numbers are medians where there are
several rounds.
"""
_COLUMNS = ("measure", "ours", "theirs", "result", "target", "reached", "note")


@dataclass(frozen=True)
class Target:
    """The target of a number: at least (`≥`) or at most (`≤`) a value."""

    sign: str
    value: float
    unit: str = ""

    def __str__(self) -> str:
        return f"{self.sign} {self.value:,g}{self.unit}"

    def met(self, number: float) -> bool:
        return number >= self.value if self.sign == "≥" else number <= self.value


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    measure: str
    ours: str
    theirs: str
    number: float
    """The number that is compared with the target."""
    unit: str
    target: Target | None
    note: str

    def cells(self) -> dict[str, str]:
        """Return the row as text by column; rounding never makes a number reach its target."""
        met = None if self.target is None else self.target.met(self.number)
        shown = figures(self.number)
        if self.target is not None and self.target.met(float(shown.replace(",", ""))) != met:
            shown = f"{self.number:.6g}"
        return {
            "measure": self.measure,
            "ours": self.ours,
            "theirs": self.theirs,
            "result": f"{shown}{self.unit}",
            "target": "" if self.target is None else str(self.target),
            "reached": "" if met is None else "yes" if met else "**no**",
            "note": self.note,
        }


def figures(number: float) -> str:
    """Return a number with three significant digits, or all digits before the point."""
    return f"{number:,.0f}" if abs(number) >= 100 else f"{number:.3g}"


def machine(device: torch.device) -> str:
    """Return the name of the measured device."""
    cores = f"{_processor()}, {len(os.sched_getaffinity(0))} cores"
    return f"{torch.cuda.get_device_name(device)} ({cores})" if device.type == "cuda" else cores


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())


class Results:
    """Owns `results.json` in a folder, and `RESULTS.md` beside it."""

    def __init__(self, folder: Path) -> None:
        self._file, self._page = folder / "results.json", folder / "RESULTS.md"
        folder.mkdir(parents=True, exist_ok=True)
        self._sections: dict[str, Any] = json.loads(self._file.read_text()) if self._file.exists() else {}

    def has(self, device: torch.device, name: str, *, whole: bool = True) -> bool:
        """Return whether a measurement is from this machine, this torch and this program; with `whole`, to its end."""
        section = self._sections.get(device.type, {})
        found = section.get("measurements", {}).get(name, {})
        same = section.get("machine") == machine(device) and found.get("torch") == torch.__version__
        return bool(same and found["whole"] >= whole and found.get("source") == project.source_sha256())

    def put(self, device: torch.device, name: str, rows: Iterable[Row], *, whole: bool) -> None:
        """Replace the rows of the measurement called `name`; remove all rows of another machine.

        `whole` says that there are no more.
        """
        measured = {
            "date": datetime.now(UTC).date().isoformat(),
            "torch": torch.__version__,
            "source": project.source_sha256(),
            "whole": whole,
            "rows": [row.cells() for row in rows],
        }
        self._merge(device.type, {"machine": machine(device), "measurements": {name: measured}})

    def take(self, file: Path) -> None:
        """Take over the rows of another `results.json`, e.g. from another machine."""
        for device, section in json.loads(file.read_text()).items():
            self._merge(device, section)

    def _merge(self, device: str, section: dict[str, Any]) -> None:
        known = self._sections.get(device, section)
        kept = known["measurements"] if known["machine"] == section["machine"] else {}
        self._sections[device] = {**section, "measurements": {**kept, **section["measurements"]}}
        self._file.write_text(json.dumps(self._sections, indent=1, ensure_ascii=False) + "\n")
        self._page.write_text(_HEAD + "".join(self._section(name) for name in ("cpu", "cuda")))

    def _section(self, device: str) -> str:
        section = self._sections.get(device)
        if section is None:
            why = "no GPU was at hand" if device == "cuda" else "not yet run"
            return f"\n## {device}\n\nnot measured: {why}\n"
        found = section["measurements"]
        days: dict[str, list[str]] = {}
        for name, part in found.items():
            days.setdefault(f"{part['date']} with torch {part['torch']}", []).append(name)
        when = "; ".join(f"{day}: {', '.join(names)}" for day, names in sorted(days.items()))
        rows = [row for part in found.values() for row in part["rows"]]
        return f"\n## {device}: {section['machine']}\n\nMeasured {when}.\n\n{_markdown(rows)}"


def _markdown(rows: list[dict[str, str]]) -> str:
    lines = [[row[column] for column in _COLUMNS] for row in rows]
    every = [list(_COLUMNS), ["---"] * len(_COLUMNS), *lines]
    return "".join(f"| {' | '.join(line)} |\n" for line in every)


def plain(rows: Iterable[Row]) -> str:
    """Return rows for the terminal, a line each."""
    found = [row.cells() for row in rows]
    return "\n".join(
        f"{c['measure']}: {c['result']} (ours {c['ours']}, theirs {c['theirs']})"
        f"{c['target'] and '; target ' + c['target'] + (' reached' if c['reached'] == 'yes' else ' NOT reached')}"
        for c in found
    )
