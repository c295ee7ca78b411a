"""Dotted config keys: flatten, read and change a config by key; which keys decide a run's metrics; the config digest.

Like `config`, this module imports neither torch nor MLflow.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, is_dataclass, replace
from typing import Any

from frostline.core.config import Config, DataConfig, FreezeModeConfig

NOT_SEMANTIC = (
    *("experiment_name", "device", "devices", "fsdp", "resume", "dry_run"),
    *("checkpoint", "store", "cluster", "tracking", "save_weights", "data.root", "data.download"),
    *("features.lockstep", "trials", "freeze_mode.space"),
    *(f"search.{key}" for key in ("name", "options", "seed", "batch", "confirm", "budget", "amount", "storage")),
    *("search.objective", "search.past", "search.space"),
)
"""Keys and groups that do not change a run's metrics, and so are left out of its digest.

Another device, or number of devices, changes only the last bits, as another thread count or CPU does. The record names
the device, and a run on another one counts as the same run. `auto` can change more than the last bits:
`compose.resolve_auto` replaces it before any digest.
"""
_NOT_SOLVED = (
    *("lr", "epochs", "batch_size", "optimizer", "schedule", "augment", "train", "compile"),
    *("features.views", "features.lockstep"),
)
"""Keys and groups that only training steps read."""
SHORT = ("model", "freeze_mode", "optimizer", "data", "select", "lr", "seed")
"""Names of the settings that people filter runs by."""
SOLVERS = {"probe": ("l2",), "knn": ("k", "temperature"), "centroid": ("temperature",)}
"""Fields of `FreezeModeConfig` that each solver of a head reads."""


def flatten(section: Any, prefix: str = "") -> dict[str, Any]:
    """Return a mapping, or (a section of) a config, as a flat dict by dotted key; lists stay whole.

    Almost nothing of a config is copied, which takes a tenth of the time of `dataclasses.asdict`.
    """
    found: dict[str, Any] = {}
    for key, value in (section if isinstance(section, Mapping) else vars(section)).items():
        if is_dataclass(value) or (isinstance(value, Mapping) and value):
            found |= flatten(value, f"{prefix}{key}.")
        elif isinstance(value, list):
            found[prefix + key] = [asdict(one) if is_dataclass(one) else one for one in value]  # type: ignore[arg-type]
        else:
            found[prefix + key] = value
    return found


@functools.cache
def is_semantic(key: str) -> bool:
    """Return whether the dotted `key` influences a run's metrics."""
    return not is_within(key, NOT_SEMANTIC)


@functools.cache
def is_read(key: str, solver: str | None) -> bool:
    """Return whether a run with `solver` (None: training steps) reads the dotted `key`, which may name a group."""
    options, own = {name for names in SOLVERS.values() for name in names}, SOLVERS.get(solver or "", ())
    unread = [*(f"freeze_mode.{name}" for name in options if name not in own), *(_NOT_SOLVED if solver else ())]
    if solver == "probe" and is_within(key, ["train.class_weights"]):
        return True
    return not is_within(key, unread)


def is_within(key: str, names: Iterable[str]) -> bool:
    """Return whether the dotted `key` is one of `names`, or in a group among them."""
    return any(key == name or key.startswith(f"{name}.") for name in names)


def semantic(config: Config) -> dict[str, Any]:
    """Return the flat part of the config that decides a run's metrics.

    This leaves out where the run executes and writes, and keys that its freeze mode does not read.
    """
    solver, values = config.freeze_mode.solver, flatten(config)
    return {key: value for key, value in values.items() if is_semantic(key) and is_read(key, solver)}


def digest(config: Config) -> str:
    """Return the sha256 (hex) of the semantic config: equal for two runs that must give the same metrics."""
    text = json.dumps(semantic(config), sort_keys=True, ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def with_values(config: Config, values: Mapping[str, Any]) -> Config:
    """Return the config with other values, given by dotted key."""
    for key, value in values.items():
        config = _with(config, key.split("."), value)
    return config


def _with(section: Any, names: Sequence[str], value: Any) -> Any:
    """Return a section, or a mapping in one, with another value at the path `names`."""
    name, *within = names
    if within:
        value = _with(_in(section, name), within, value)
    return {**section, name: value} if isinstance(section, Mapping) else replace(section, **{name: value})


def value_of(config: Config, key: str) -> Any:
    """Return the value at the dotted `key`; the whole config for an empty key."""
    return functools.reduce(_in, filter(None, key.split(".")), config)


def _in(section: Any, name: str) -> Any:
    return section[name] if isinstance(section, Mapping) else getattr(section, name)


def trains_head_alone(mode: FreezeModeConfig) -> bool:
    """Return whether nothing but the head ever learns, in one phase."""
    rules = [rule for phase in mode.phases for rule in phase.rules if rule.lr_scale]
    return len(mode.phases) == 1 and not mode.phases[0].stepwise and all(r.match.startswith("head/") for r in rules)


def takes_plain_head_steps(config: Config) -> bool:
    """Return whether a run trains only a head, on kept features, by steps whose gradient has a closed form.

    Several such runs can train in lockstep.
    """
    mode, features, train = config.freeze_mode, config.features, config.train
    if mode.solver is not None or not trains_head_alone(mode) or not (features.enabled and features.lockstep):
        return False
    if train.mixup or train.cutmix or train.clip_norm is not None or train.ema_decay is not None:
        return False
    return train.loss == "cross_entropy" and train.class_weights is None and train.sampling == "shuffled"


def shrinks_train(data: DataConfig) -> bool:
    """Return whether only some images of the training split are used."""
    return data.shots is not None or data.limit is not None or data.fraction < 1


def choices(config: Config) -> dict[str, Any]:
    """Return the settings that people filter runs by, without those that the freeze mode does not read.

    A solver on random initial weights also has `model.weights`: these weights are all that its seed draws. A run has
    `data.subset_seed` if that was given.
    """
    named = {
        "model": config.model.name,
        "freeze_mode": config.freeze_mode.name,
        "optimizer": config.optimizer.name,
        "data": config.data.name,
        "select": config.select,
        "lr": config.lr,
        "seed": config.seed,
    }
    found = {name: value for name, value in named.items() if is_read(name, config.freeze_mode.solver)}
    found |= {"model.weights": None} if config.freeze_mode.solver and not config.model.weights else {}
    return found | ({} if (drawn := config.data.subset_seed) is None else {"data.subset_seed": drawn})


def differing(sections: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the keys whose values differ between the mappings that have them, in order of first appearance."""
    keys = dict.fromkeys(key for section in sections for key in section)
    return [key for key in keys if len({repr(section[key]) for section in sections if key in section}) > 1]


def is_implied(key: str, stated: Sequence[Mapping[str, Any]], configs: Sequence[Mapping[str, Any]]) -> bool:
    """Return whether the choice that is `stated` for its group determines `key` in all runs, as `model` its name."""
    group, runs = key.partition(".")[0], zip(stated, configs, strict=True)
    pairs = {(repr(choice.get(group)), repr(config[key])) for choice, config in runs if key in config}
    return len(pairs) == len({name for name, _ in pairs})
