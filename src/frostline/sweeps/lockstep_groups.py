"""Which runs of a sweep one worker shall carry out, one after the other, since it trains their heads in lockstep."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from frostline.core.config import Config, ScheduleConfig
from frostline.core.config_keys import digest, takes_plain_head_steps, trains_head_alone, value_of, with_values
from frostline.records.sweep_record import RunFacts

OF_STEPS = (
    *("lr", "seed", "optimizer.weight_decay", "optimizer.decay_norm_and_bias", "optimizer.options"),
    *(f"schedule.{key}" for key in ScheduleConfig.__dataclass_fields__),
    *("train.label_smoothing", "train.patience", "select"),
)
"""What steps of a head read and what judges them, and nothing below it: runs that differ in it may share the rest."""
_FEW = 4
"""Runs below which a second worker gains less than what it costs to make their steps apart."""


def shared_by(config: Config) -> str | None:
    """Return what is the same for all runs whose heads may be trained in lockstep; None for a run that is alone."""
    if not takes_plain_head_steps(config):
        return None
    return digest(with_values(config, dict.fromkeys(OF_STEPS))) + config.data.root + config.device


def stacked(configs: Sequence[Config], runs: Sequence[RunFacts], workers: int, first: int = 0) -> tuple[RunFacts, ...]:
    """Return what is known of the runs with their stack, from `first` on, in as many parts as there are `workers`.

    What is gone on with, or done already, is in none; without `workers` that carry out several, nothing is.
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
    """Return the runs, by number in the order in which they run, that each job of a cluster carries out.

    `pack` is how many, or `auto`: all runs of a head that read the same features, and any other run alone.
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
    """Return the configs of the runs that come after `number`, the run of `config`, in its stack."""
    mine = runs[number].stack
    others = [facts for facts in runs[number + 1 :] if mine is not None and facts.stack == mine]
    return [with_values(config, facts.of_steps) for facts in others]
