"""Objectives of a hyperparameter search: the metric of `select`, or several that form a Pareto front."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from frostline.core.metrics import METRICS


@dataclass(frozen=True)
class Objective:
    """A quantity that a search maximises or minimises."""

    name: str
    """Its name in `search.objective`, e.g. `val/accuracy` or `cost/train_seconds`."""
    metric: str
    """Its name as a metric of a run."""
    words: str
    """Its name for people, with its unit."""
    sign: int
    """1 if higher is better, -1 if lower is."""
    share: bool = False
    """Whether it is in 0..1 and shown in percent."""

    @property
    def direction(self) -> Literal["maximize", "minimize"]:
        """In Optuna's words: `maximize` or `minimize`."""
        return "maximize" if self.sign > 0 else "minimize"

    def text(self, value: float) -> str:
        """Return a value for people."""
        return f"{100 * value:.2f}%" if self.share else f"{value:.3g}"


def _of_select(name: str) -> Objective:
    by = METRICS[name]
    return Objective(name, by.val, f"validation {by.words}", by.sign, by.share)


def _cost(name: str, words: str, sign: int = -1) -> Objective:
    return Objective(f"cost/{name}", f"cost/{name}", words, sign)


OBJECTIVES = {
    one.name: one
    for one in (
        *map(_of_select, METRICS),
        _cost("train_seconds", "training time (s)"),
        _cost("trainable_parameters", "trainable parameters"),
        _cost("peak_memory_bytes", "peak memory (bytes)"),
        _cost("bytes_per_task", "bytes to ship per task"),
        _cost("backbone_images", "images through the backbone"),
        _cost("images_per_second", "training speed (images/s)", sign=1),
        _cost("inference_images_per_second", "inference speed (images/s)", sign=1),
    )
}
"""By name in `search.objective`: validation metrics and costs, which every run records."""


def several(names: Sequence[str] | None) -> list[Objective]:
    """Return the objectives called `names`; empty for None, where a search optimises the metric of `select`."""
    return [OBJECTIVES[name] for name in names or ()]
