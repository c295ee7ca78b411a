"""What a search looks for: the metric of `select`, or several that are weighed against each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from frostline.core.metrics import METRICS


@dataclass(frozen=True)
class Objective:
    """One of the things that are to be as good as they can be."""

    name: str
    """As it stands in `search.objective`, e.g. `val/accuracy` or `cost/train_seconds`."""
    metric: str
    """Its name as a metric of a run."""
    words: str
    """For people, with its unit."""
    sign: int
    """1 where more is better, -1 where less is."""
    share: bool = False
    """Whether it lies in 0..1 and is shown in percent."""

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
"""By what may stand in `search.objective`: what every run records on validation, and what it costs."""


def several(names: Sequence[str] | None) -> list[Objective]:
    """Return the objectives that are named; none where a search is for what stands in `select`."""
    return [OBJECTIVES[name] for name in names or ()]
