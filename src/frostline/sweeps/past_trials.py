"""Observations for a study from earlier runs, those that differ from its cell only in the searched keys."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from optuna.distributions import BaseDistribution

from frostline.core.config import Config
from frostline.core.config_keys import semantic
from frostline.records.result import PRUNED
from frostline.sweeps import search_space
from frostline.sweeps.past_runs import PastRun
from frostline.sweeps.study import objectives_of

Observation = tuple[dict[str, Any], list[float], str]
"""The searched values, the result for each objective, and the name of the run."""
_HOW = ("search.prune",)
"""Keys that do not change the result of a run that was not stopped early."""


def observations(
    past: Iterable[PastRun], config: Config, space: Mapping[str, BaseDistribution]
) -> Iterator[Observation]:
    """Yield the runs of `past` that are observations for the cell of `config`, sorted, each point once.

    Skips runs that were stopped early and runs outside of the `space`.
    """
    fixed = {key: str(value) for key, value in semantic(config).items() if key not in (*space, *_HOW)}
    metrics = [one.metric for one in objectives_of(config)]
    seen: set[str] = set()
    for run in sorted(past, key=str):
        if PRUNED in run.metrics or any(run.params.get(key) != text for key, text in fixed.items()):
            continue
        values = {key: search_space.value_of(run.params.get(key, ""), one) for key, one in space.items()}
        results = [run.metrics.get(metric, math.nan) for metric in metrics]
        if None in values.values() or repr(values) in seen or not all(map(math.isfinite, results)):
            continue
        seen.add(repr(values))
        yield values, results, str(run)
