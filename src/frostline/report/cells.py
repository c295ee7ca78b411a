"""What a sweep's own record says of its runs: the best cell of every freeze mode, as metrics and tags."""

from __future__ import annotations

import math
from collections.abc import Sequence

from frostline.records.result import PARAMETERS, SECONDS, TEST, VAL, Cell, Result, cells, named, varying

_METRICS = {"val_accuracy": VAL, "test_accuracy": TEST, "train_seconds": SECONDS, "trainable_parameters": PARAMETERS}


def metrics(results: Sequence[Result]) -> dict[str, float]:
    """Return `<mode>/<metric>` of each mode's best cell by validation: means over its seeds, and its learning rate.

    The metrics are `val_accuracy`, `test_accuracy`, `train_seconds`, `trainable_parameters` and `lr`. Runs on different
    data are not compared: with several data sets the keys begin with theirs.
    """
    found: dict[str, float] = {}
    for name, cell in _best(results).items():
        values = {key: cell.mean(metric) for key, metric in _METRICS.items()}
        values["lr"] = float(cell.choices.get("lr", math.nan))
        found |= {f"{name}/{key}": value for key, value in values.items() if not math.isnan(value)}
    return found


def tags(results: Sequence[Result]) -> dict[str, str]:
    """Return `frostline.best.<mode>`: what was chosen in each mode's best cell, of all that the sweep varies."""
    swept = [name for name in varying(results) if name not in ("seed", "freeze_mode")]
    return {
        f"frostline.best.{name.replace('/', '.')}": named(cell.choices, swept) or "the only cell"
        for name, cell in _best(results).items()
    }


def _best(results: Sequence[Result]) -> dict[str, Cell]:
    """Return the best finished cell by mode, or by data and mode where there are several data sets."""
    several = "data" in varying(results)
    best: dict[str, Cell] = {}
    for cell in cells(results):  # best first
        mode = str(cell.choices.get("freeze_mode"))
        name = f"{cell.choices.get('data')}/{mode}" if several else mode
        if cell.finished:
            best.setdefault(name, cell)
    return best
