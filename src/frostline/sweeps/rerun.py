"""Compare a rerun with its original: differences of results and environments, and the verdict.

Pure Python: neither torch nor MLflow is imported.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from frostline.records.result import TEST, VAL, percent

TOLERANCE = 0.01
"""Tolerance for accuracies, as a fraction, without other seeds: one point, e.g. 3 images of 359 digits."""

_OWN = ("command", "directory", "weights.final")  # recorded for every run, but no part of the environment
_SHOWN = ("source.commit", "source.dirty", "source.untracked")  # shown, but only the hash of the code is compared
Line = Mapping[str, Any]
"""The metrics of one epoch, with its number as `epoch`."""


class Verdict(Enum):
    """The verdict of a rerun; the value is the exit status."""

    IDENTICAL = 0
    WITHIN = 3
    OUTSIDE = 4
    UNEXPLAINED = 5

    @property
    def text(self) -> str:
        """The verdict in words, as in the tag `frostline.verdict`."""
        return {
            Verdict.IDENTICAL: "identical",
            Verdict.WITHIN: "environment differs, within tolerance",
            Verdict.OUTSIDE: "environment differs, outside tolerance",
            Verdict.UNEXPLAINED: "same environment, different result",
        }[self]


@dataclass(frozen=True)
class Comparable:
    """The parts of a run that are compared with its rerun."""

    epochs: Mapping[str, Sequence[Line]]
    """The metrics of every epoch, by their source: `metrics.jsonl`, `MLflow`."""
    metrics: Mapping[str, float]
    """The final metrics."""
    weights: str | None
    """sha256 of the best weights; None if they were not kept."""
    environment: Mapping[str, Any] = field(default_factory=dict)
    """Software and hardware, as flat keys."""


@dataclass(frozen=True)
class RerunComparison:
    """The result of comparing a rerun with its original."""

    verdict: Verdict
    environment: tuple[str, ...]
    """Differences of the environment, a line each."""
    results: tuple[str, ...]
    """Differences of the results, a line each, the first epoch and metric first."""
    tolerance: str
    """The tolerance and its source; empty if it was not needed."""

    def lines(self, shown: Sequence[str] = ()) -> list[str]:
        """Return the report as lines, without those that were `shown` before; the verdict is the last line."""
        found = [f"  differs now: {line}" for line in self.environment if line not in shown]
        found += [f"  other result: {line}" for line in self.results[:10]]
        found += [f"  other result: and {len(self.results) - 10} more"] if len(self.results) > 10 else []
        if self.verdict is Verdict.UNEXPLAINED:
            return [*found, f"VERDICT: {self.verdict.text.upper()}: {self.results[0]}"]
        return [*found, f"verdict: {self.verdict.text}" + (f" ({self.tolerance})" if self.tolerance else "")]


def compare(old: Comparable, new: Comparable, seeds: Mapping[str, Sequence[float]]) -> RerunComparison:
    """Compare the rerun `new` with the original `old`.

    `seeds` has the accuracies of all seeds of the same cell, by metric: with two or more of them, accuracies within
    their spread are within tolerance.
    """
    environment = tuple(differences(old.environment, new.environment))
    results = tuple(_results(old, new))
    if not results:
        return RerunComparison(Verdict.IDENTICAL, environment, (), "")
    if not environment:
        return RerunComparison(Verdict.UNEXPLAINED, (), results, "")
    within, why = _tolerated(old, new, seeds)
    return RerunComparison(Verdict.WITHIN if within else Verdict.OUTSIDE, environment, results, why)


def differences(then: Mapping[str, Any], now: Mapping[str, Any], *, shown: bool = False) -> list[str]:
    """Return the differences between two environments, e.g. `packages.torch: 2.14.0, now 2.15.0`.

    With `shown` also those of the git commit, which cannot change a result if the hash of the code is the same.
    """
    hidden = _OWN if shown else (*_OWN, *_SHOWN)
    keys = [key for key in {**then, **now} if not any(key == name or key.startswith(f"{name}.") for name in hidden)]
    return [
        f"{key}: {_short(then.get(key))}, now {_short(now.get(key))}" for key in keys if then.get(key) != now.get(key)
    ]


def _short(value: object) -> str:
    text = "not there" if value is None else str(value)
    return text if len(text) <= 60 else f"{text[:12]}..."


def _results(old: Comparable, new: Comparable) -> Iterable[str]:
    """Yield the differences of the results, in the order of the epochs."""
    again = next(iter(new.epochs.values()))
    for where, lines in old.epochs.items():
        yield from _epochs(where, lines, again)
    for key in sorted(_shown(old.metrics) | _shown(new.metrics)):
        if old.metrics.get(key) != new.metrics.get(key):
            yield f"{key} was {old.metrics.get(key)}, is {new.metrics.get(key)}"
    if old.weights is not None and old.weights != new.weights:
        yield f"best.safetensors was {_short(old.weights)}, is {_short(new.weights)}"
    said = old.environment.get("weights.final")
    if said is not None and said != new.environment.get("weights.final"):
        yield f"the final weights were {_short(said)}, are {_short(new.environment.get('weights.final'))}"


def _epochs(where: str, then: Sequence[Line], now: Sequence[Line]) -> Iterable[str]:
    was, there = ({int(line["epoch"]): line for line in lines} for lines in (then, now))
    for epoch in sorted(was.keys() | there.keys()):
        a, b = was.get(epoch, {}), there.get(epoch, {})
        for key in sorted(_shown(a) | _shown(b)):
            if a.get(key) != b.get(key):
                yield f"epoch {epoch}, {key} was {a.get(key)}, is {b.get(key)} ({where})"
    if len(then) != len(was):
        yield f"{where} has an epoch twice"


def _shown(values: Mapping[str, Any]) -> set[str]:
    """Return the names of metrics that a rerun must reproduce: all but costs and system metrics."""
    return {key for key in values if "/" in key and not key.startswith(("cost/", "system/"))}


def _tolerated(old: Comparable, new: Comparable, seeds: Mapping[str, Sequence[float]]) -> tuple[bool, str]:
    """Return whether the accuracies are within tolerance, and a text with the differences and tolerances."""
    near, words = True, []
    for key in (VAL, TEST):
        values = seeds.get(key, ())
        limit = max(values) - min(values) if len(values) > 1 else TOLERANCE
        source = f"spread of {len(values)} seeds" if len(values) > 1 else "default without other seeds"
        then, now = old.metrics.get(key), new.metrics.get(key)
        gap = abs(then - now) if then is not None and now is not None else float("inf")
        near = near and gap <= limit + 1e-12
        words.append(f"{key} {percent(gap)} apart, tolerance {percent(limit)}: {source}")
    return near, "; ".join(words)
