"""What runs came to, grouped into cells: one point of a sweep's grid with all its seeds.

Cells and freeze modes are compared by validation accuracy; test accuracy is only reported. Pure Python: neither torch
nor MLflow is imported.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean, stdev
from typing import Any

VAL = "best/val_accuracy"
TEST = "test/accuracy"
SHARED, WITHOUT = "test/shared_images", "test/accuracy_without_shared"
"""How many test images are in train, too, and the accuracy on the others."""
SECONDS = "cost/train_seconds"
PARAMETERS = "cost/trainable_parameters"
IMAGES = "cost/backbone_images"


@dataclass(frozen=True)
class Result:
    """What a run ends with."""

    job: int
    name: str
    folder: str
    run_id: str | None
    status: str
    """`FINISHED`, `FAILED`, `KILLED`, or `PLANNED` for a dry run."""
    reason: str | None
    """Why it failed or was killed, in one line."""
    choices: dict[str, Any]
    """What was chosen, by short name: model, freeze_mode, optimizer, data, lr, seed and what else the sweep varies."""
    metrics: dict[str, float]
    """The metrics logged once per run: `best/...`, `test/...`, `cost/...`."""
    images: dict[str, int] = field(default_factory=dict)
    """Number of images per split; empty where the run ended before its data was read."""

    @classmethod
    def of(cls, values: Any) -> Result:
        """Return the result that plain values from a file say; raises ValueError where they say none."""
        try:
            found = cls(**values)
        except TypeError as problem:
            raise ValueError(f"not the result of a run ({problem})") from None
        texts = (found.name, found.folder, found.status, found.run_id or "", found.reason or "")
        tables = (found.choices, found.metrics, found.images)
        if not all(isinstance(text, str) for text in texts) or not all(isinstance(table, dict) for table in tables):
            raise ValueError("not the result of a run")
        numbers = (found.job, *found.metrics.values(), *found.images.values())
        if not all(isinstance(number, int | float) for number in numbers):
            raise ValueError("not the result of a run: its metrics are no numbers")
        return found


@dataclass(frozen=True)
class Cell:
    """One point of the grid: all results that differ in nothing but the seed."""

    choices: dict[str, Any]
    results: tuple[Result, ...]

    @property
    def finished(self) -> tuple[Result, ...]:
        """The results that mean and spread are taken over."""
        return tuple(result for result in self.results if result.status == "FINISHED")

    def mean(self, metric: str) -> float:
        """Return the mean of `metric` over the finished seeds; nan where there is none."""
        values = self._values(metric)
        return fmean(values) if values else math.nan

    def spread(self, metric: str) -> float | None:
        """Return the sample standard deviation of `metric` over the finished seeds; None for fewer than two."""
        values = self._values(metric)
        return stdev(values) if len(values) > 1 else None

    def _values(self, metric: str) -> list[float]:
        return [result.metrics[metric] for result in self.finished if metric in result.metrics]


def cells(results: Iterable[Result]) -> list[Cell]:
    """Return the cells, highest mean validation accuracy first; of equals the one that trains fewer parameters first.

    Cells in which no seed finished come last, in the order of their jobs.
    """
    groups: dict[str, list[Result]] = {}
    for result in sorted(results, key=lambda result: result.job):
        groups.setdefault(repr(sorted(_without_seed(result).items())), []).append(result)
    return sorted((Cell(_without_seed(group[0]), tuple(group)) for group in groups.values()), key=_rank)


def varying(results: Sequence[Result]) -> list[str]:
    """Return the names of the choices that differ within the sweep, in the order in which runs state them."""
    names = dict.fromkeys(name for result in results for name in result.choices)
    return [name for name in names if len({repr(result.choices.get(name)) for result in results}) > 1]


def percent(fraction: float) -> str:
    """Return an accuracy for people, e.g. `97.50%`."""
    return f"{100 * fraction:.2f}%"


def value_text(value: object) -> str:
    """Return a choice for people: floats in their shortest form, everything else as it prints."""
    return f"{value:g}" if isinstance(value, float) else str(value)


def named(choices: Mapping[str, Any], names: Sequence[str]) -> str:
    """Return some of the choices as they are given on a command line, e.g. `lr=0.001 augment=none`."""
    return " ".join(f"{name}={value_text(choices.get(name))}" for name in names)


def _without_seed(result: Result) -> dict[str, Any]:
    return {name: value for name, value in result.choices.items() if name != "seed"}


def _rank(cell: Cell) -> tuple[bool, float, float, int]:
    accuracy = cell.mean(VAL)
    parameters = cell.mean(PARAMETERS)
    return (
        not cell.finished,
        math.inf if math.isnan(accuracy) else -accuracy,
        math.inf if math.isnan(parameters) else parameters,
        cell.results[0].job,
    )
