"""Config validation beyond Hydra's: types (`typed_values`), limits of values (`limits`), contradictory keys."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from math import inf, isfinite
from pathlib import Path
from typing import Any

from frostline.core import untrusted
from frostline.core.config import KEPT, AdapterConfig, Config, FreezeModeConfig, PhaseConfig
from frostline.core.config_keys import SOLVERS, flatten, trains_head_alone, value_of, with_values
from frostline.core.errors import UserError, one_line, user_error
from frostline.core.limits import LIMITS, NAMES
from frostline.core.metrics import ACCURACY, METRICS
from frostline.core.objectives import OBJECTIVES
from frostline.core.typed_values import fits, section

_RANGES = ("full", "minmax", "percentile")


def parse(values: Mapping[str, Any]) -> Config:
    """Return the checked `Config` of a resolved, plain mapping; raises `UserError` if it does not fit the schema."""
    config: Config = section(Config, values, "")
    config = replace(config, train=replace(config.train, class_weights=_by_name(config.train.class_weights)))
    return _checked(config)


def changed(config: Config, values: Mapping[str, float | str | bool]) -> Config:
    """Return `config` with other values, by dotted key, checked as by `parse`; each value must keep its type."""
    for key, value in values.items():
        assert type(value) is type(value_of(config, key)), key
    return _checked(with_values(config, values), values)


def _checked(config: Config, given: Collection[str] | None = None) -> Config:
    """Return the config; raises `UserError` for contradictions, and for bad values of the keys `given` (None: all)."""
    for key in LIMITS if given is None else filter(LIMITS.__contains__, given):
        limit, value = LIMITS[key], value_of(config, key)
        if value is not None and not limit.allows(value):
            raise user_error(key, value, limit.expected)
    for key in NAMES if given is None else filter(NAMES.__contains__, given):
        if (value := value_of(config, key)) not in NAMES[key]:
            raise user_error(key, value, "one of " + ", ".join(NAMES[key]), NAMES[key])
    if config.data.folds is not None and config.data.fold >= config.data.folds:
        raise user_error("data.fold", config.data.fold, f"a whole number below data.folds={config.data.folds}")
    if config.data.shots is not None and (config.data.limit is not None or config.data.fraction < 1):
        raise user_error("data.shots", config.data.shots, "null beside data.limit or data.fraction")
    if config.devices > 1:
        _check_several_devices(config)
    if config.fsdp:
        _check_fsdp(config)
    _check_range(config.data.range)
    _check_class_weights(config.train.class_weights)
    _check_phases(config.freeze_mode.phases)
    _check_solver(config.freeze_mode)
    _check_objective(config)
    _check_search(config)
    for key, value in flatten(config).items():
        if not _finite(value):  # options have no limits of their own
            raise user_error(key, value, "finite numbers only")
    return config if config.freeze_mode.solver is None else _solved_at_once(config)


def adapter_config(values: Mapping[str, Any]) -> AdapterConfig:
    """Return the checked adapter config from the `values` of a file; UserError if they are none."""
    prefix = "freeze_mode.adapter."
    how: AdapterConfig = section(AdapterConfig, values, prefix)
    for key, limit in LIMITS.items():
        if key.startswith(prefix) and not limit.allows(value := getattr(how, key.removeprefix(prefix))):
            raise user_error(key, value, limit.expected)
    if how.kind not in KEPT:
        raise user_error(f"{prefix}kind", how.kind, "one of " + ", ".join(KEPT), KEPT)
    return how


def _check_several_devices(config: Config) -> None:
    several = f"with devices={config.devices}"
    if config.device.startswith("cuda:"):
        raise user_error("device", config.device, f"cuda, auto or cpu {several}; an index names a single GPU")
    if config.devices > config.batch_size:
        raise user_error("devices", config.devices, f"at most batch_size={config.batch_size}: each takes a share of it")
    if config.compile == "on":
        raise user_error("compile", "on", f"auto or off {several}: networks on several devices are not compiled")


def _check_fsdp(config: Config) -> None:
    if config.devices == 1:
        raise user_error("fsdp", True, "false with devices=1: a single device holds the whole network")
    if config.train.ema_decay is not None:
        expected = "null with fsdp=true: no moving average is kept of sharded weights"
        raise user_error("train.ema_decay", config.train.ema_decay, expected)
    if config.save_weights != "whole":
        expected = "whole with fsdp=true: no process has all initial weights"
        raise user_error("save_weights", config.save_weights, expected)
    if config.optimizer.name.lower() == "adafactor":
        expected = "an elementwise optimizer with fsdp=true, such as adamw or sgd"
        raise user_error("optimizer.name", config.optimizer.name, expected)
    if (timed := "cost/inference_images_per_second") in (config.search.objective or ()):
        expected = "another objective with fsdp=true: no process has the whole network to time it"
        raise user_error("search.objective", timed, expected)
    if len(config.freeze_mode.phases) > 1 or any(phase.stepwise for phase in config.freeze_mode.phases):
        expected = "a mode of one phase with fsdp=true: sharded parameters learn from the start"
        raise user_error("freeze_mode", config.freeze_mode.name, expected)


def _check_range(chosen: Any) -> None:
    if isinstance(chosen, list):
        known = len(chosen) == 2 and all(fits(float, end) for end in chosen) and chosen[0] < chosen[1]
    else:
        known = chosen in _RANGES
    if not known:
        raise user_error("data.range", chosen, f"one of {', '.join(_RANGES)}, or [low,high] with low < high", _RANGES)


def _by_name(weights: Any) -> Any:
    """Return class weights with names as text: Hydra reads a name such as `3` as a number."""
    if not isinstance(weights, dict):
        return weights
    return {str(name) if type(name) is int else name: weight for name, weight in weights.items()}


def _check_class_weights(chosen: Any) -> None:
    weights = chosen.values() if isinstance(chosen, dict) else ()
    named = bool(weights) and all(fits(float, weight) and 0 < weight < inf for weight in weights)
    named = named and all(isinstance(name, str) for name in chosen)
    if not (chosen is None or chosen == "balanced" or named):
        expected = "null, balanced, or finite weights above 0 by class name, as {cat:2,dog:1}"
        raise user_error("train.class_weights", chosen, expected, ("balanced",))


def _finite(value: Any) -> bool:
    """Return whether `value`, a list or not, has no nan or infinite number."""
    return all(map(_finite, value)) if isinstance(value, list) else not isinstance(value, float) or isfinite(value)


def _check_phases(phases: Sequence[PhaseConfig]) -> None:
    for i, phase in enumerate(phases):
        key = f"freeze_mode.phases[{i}]"
        for name in ("share", "lr_scale"):
            if not 0 < getattr(phase, name) < inf:
                raise user_error(f"{key}.{name}", getattr(phase, name), "a finite number above 0")
        for j, rule in enumerate(phase.rules):
            if not 0 <= rule.lr_scale < inf:
                raise user_error(f"{key}.rules[{j}].lr_scale", rule.lr_scale, "a finite number from 0 (0 freezes)")
            if not 0 < rule.lr_decay < inf:
                raise user_error(f"{key}.rules[{j}].lr_decay", rule.lr_decay, "a finite number above 0")


def _check_solver(mode: FreezeModeConfig) -> None:
    """Raise `UserError` unless the solver has the values that it reads, and only the head learns."""
    if mode.solver is None:
        return
    if mode.solver not in SOLVERS:
        raise user_error("freeze_mode.solver", mode.solver, f"one of {', '.join(SOLVERS)}, or null", SOLVERS)
    for name in SOLVERS[mode.solver]:
        if not (value := getattr(mode, name)):
            raise user_error(f"freeze_mode.{name}", value, f"a value: freeze_mode.solver={mode.solver} reads it")
    if not trains_head_alone(mode):
        raise user_error("freeze_mode.solver", mode.solver, "one phase in which only head/* learns")


def _check_objective(config: Config) -> None:
    """Raise `UserError` unless every run has the objectives, and the sampler and pruner support several."""
    search, names = config.search, config.search.objective
    if names is None:
        return
    known = [*dict.fromkeys((ACCURACY.epoch, config.select)), *(one for one in OBJECTIVES if one.startswith("cost/"))]
    for name in names:
        if name in METRICS and name not in known:
            expected = f"{' or '.join(known[:2])} on validation; select={name} chooses the epochs by it"
            raise user_error("search.objective", name, expected)
        if name not in known:
            raise user_error("search.objective", name, "two or more of " + ", ".join(known), known)
    if len(set(names)) < max(2, len(names)):
        expected = "two or more different objectives; for one, use select=val/loss or the like"
        raise user_error("search.objective", ",".join(names), expected)
    if search.name == "cmaes":
        expected = "tpe, gp, qmc or random, since CMA-ES takes one objective"
        raise user_error("search", search.name, f"{expected}, and not {','.join(names)}")
    if search.prune != "none":
        expected = f"none with search.objective={','.join(names)}: a trial that is stopped early has no cost to compare"
        raise user_error("search.prune", search.prune, expected)


def _check_search(config: Config) -> None:
    """Raise `UserError` for search settings that contradict each other, or do not determine the budget of a cell."""
    if config.search.past and not config.resume:
        raise user_error("search.past", "true", "false with resume=false, which ignores earlier sweeps")
    if config.search.prune == "hyperband" and config.epochs < 3:
        expected = f"none with epochs={config.epochs}: its first rung is a third of all epochs"
        raise user_error("search.prune", "hyperband", expected)
    unit, amount = config.search.budget, config.search.amount
    if unit == "seconds" and amount is None:
        expected = "the training seconds of each cell, with search.budget=seconds"
        raise user_error("search.amount", "null", expected)
    if unit == "trials" and amount is not None:
        raise user_error("search.amount", amount, "null with search.budget=trials; the number is set by trials=12")


def _solved_at_once(config: Config) -> Config:
    """Return the config of a run with a solver: one epoch, on views without augmentation.

    The moving average of weights is off: it would be evaluated in place of the head.
    """
    plain = replace(config.augment, name="none", crop="none", flip=False, color=0.0, trivial=False)
    return replace(config, epochs=1, augment=plain, train=replace(config.train, ema_decay=None))


def read_config(path: Path) -> Config:
    """Return the config that a run wrote to `path`, read as plain data; UserError if the file holds anything else."""
    try:
        return parse(untrusted.config(path))
    except UserError as error:
        raise error if str(error).startswith(str(path)) else UserError(f"{path}: {error}") from None
    except (TypeError, AttributeError) as error:
        raise UserError(f"{path}: expected the config of a run ({one_line(error)})") from None
