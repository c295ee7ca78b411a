"""Group the runs of a sweep whose heads one worker trains in lockstep, and pack runs into cluster jobs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from frostline.core.config import Config, ScheduleConfig
from frostline.core.config_keys import digest, takes_plain_head_steps, trains_head_alone, value_of, with_values
from frostline.records.sweep_facts import RunFacts

OF_STEPS = (
    *("lr", "seed", "optimizer.weight_decay", "optimizer.decay_norm_and_bias", "optimizer.options"),
    *(f"schedule.{key}" for key in ScheduleConfig.__dataclass_fields__),
    *("train.label_smoothing", "train.patience", "select"),
)
"""Keys of the training steps and their selection, not of the features: runs that differ only here share features."""
_FEW = 4
"""Smallest part of a group: splitting fewer runs between workers costs more than a second worker gains."""


def shared_by(config: Config) -> str | None:
    """Return a key that is equal for runs whose heads can be trained in lockstep; None for a run that trains alone."""
    if not takes_plain_head_steps(config):
        return None
    return digest(with_values(config, dict.fromkeys(OF_STEPS))) + config.data.root + config.device


def stacked(configs: Sequence[Config], runs: Sequence[RunFacts], workers: int, first: int = 0) -> tuple[RunFacts, ...]:
    """Return the facts of the runs with the number of their stack, from `first` on, each group split among `workers`.

    Runs that are resumed or done are in no stack; with 0 `workers` no run is.
    """
    groups: dict[str, list[int]] = {}
    for number, (config, facts) in enumerate(zip(configs, runs, strict=True)):
        key = shared_by(config)
        if key is not None and facts.to_do and facts.previous is None and workers:
            groups.setdefault(key, []).append(number)
    told, count = list(runs), first
    for group in groups.values():
        size = max(math.ceil(len(group) / workers), _FEW)
        for part in (group[start : start + size] for start in range(0, len(group), size)):
            for number in part if len(part) > 1 else ():
                values = {key: value_of(configs[number], key) for key in OF_STEPS}
                told[number] = replace(runs[number], stack=count, of_steps=values)
            count += 1
    return tuple(told)


def batches(configs: Mapping[int, Config], pack: int | str) -> list[list[int]]:
    """Return the numbers of the runs of each cluster job, in the order in which they run.

    `pack` is the number of runs per job, or `auto`: runs of a head that share features in one job, any other run alone.
    """
    if pack != "auto":
        numbers = [*configs]
        return [numbers[start : start + int(pack)] for start in range(0, len(numbers), int(pack))]
    groups: dict[str, list[int]] = {}
    for number, config in configs.items():
        cheap = config.features.enabled and trains_head_alone(config.freeze_mode)
        kept = (config.model, config.data, config.augment, config.precision, config.device)
        groups.setdefault(repr(kept) if cheap else str(number), []).append(number)
    return [*groups.values()]


def siblings(config: Config, number: int, runs: Sequence[RunFacts]) -> list[Config]:
    """Return the configs of the runs after `number`, which has `config`, in its stack."""
    mine = runs[number].stack
    others = [facts for facts in runs[number + 1 :] if mine is not None and facts.stack == mine]
    return [with_values(config, facts.of_steps) for facts in others]
