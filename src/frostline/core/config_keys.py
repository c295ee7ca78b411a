"""The keys of a config, with dots: flat, read and changed by key; which of them decide a run's metrics; the digest.

This module imports neither torch nor MLflow, as `config` does not.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, is_dataclass, replace
from typing import Any

from frostline.core.config import Config, FreezeModeConfig

NOT_SEMANTIC = (
    *("experiment_name", "device", "devices", "fsdp", "resume", "dry_run"),
    *("checkpoint", "store", "cluster", "tracking", "save_weights", "data.root", "data.download"),
    *("features.lockstep", "trials", "freeze_mode.space"),
    *(f"search.{key}" for key in ("name", "options", "seed", "batch", "confirm", "budget", "amount", "storage")),
    *("search.objective", "search.past", "search.space"),
)
"""What does not change a run's metrics, and so is no part of its digest.

A device changes their last bits, as another thread count or CPU does, and so do several: the record names them, and a
run on others counts as the same. What `auto` makes of a device is no last bit: `compose.settled` replaces it before any
digest.
"""
_NOT_SOLVED = (
    *("lr", "epochs", "batch_size", "optimizer", "schedule", "augment", "train", "compile"),
    *("features.views", "features.lockstep"),
)
"""What only training steps read."""
SOLVERS = {"probe": ("l2",), "knn": ("k", "temperature"), "centroid": ("temperature",)}
"""What each solver of a head reads of `FreezeModeConfig`."""
_ALSO_SOLVED = {"probe": "train.class_weights"}
"""What a solver reads of that which is otherwise read by steps."""


def flatten(section: Any, prefix: str = "") -> dict[str, Any]:
    """Return what is in a mapping or in (a section of) a config, flat, by keys with dots; lists stay whole.

    Of a config next to nothing is copied, which takes a tenth of the time that it takes to make plain values of it.
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
    """Return whether `key`, with dots, is one that decides a run's metrics."""
    return not _within(key, NOT_SEMANTIC)


@functools.cache
def is_read(key: str, solver: str | None) -> bool:
    """Return whether a run whose head comes about by `solver` reads `key`, with dots; of groups their name will do."""
    options, own = {name for names in SOLVERS.values() for name in names}, SOLVERS.get(solver or "", ())
    unread = [*(f"freeze_mode.{name}" for name in options if name not in own), *(_NOT_SOLVED if solver else ())]
    if solver in _ALSO_SOLVED and _within(key, [_ALSO_SOLVED[solver]]):
        return True
    return not _within(key, unread)


def _within(key: str, names: Iterable[str]) -> bool:
    """Return whether `key`, with dots, is one of the names or lies in one that is a group."""
    return any(key == name or key.startswith(f"{name}.") for name in names)


def semantic(config: Config) -> dict[str, Any]:
    """Return the flat part of the config that decides a run's metrics.

    Left out is where it runs and is written, and what its freeze mode does not read.
    """
    solver, values = config.freeze_mode.solver, flatten(config)
    return {key: value for key, value in values.items() if is_semantic(key) and is_read(key, solver)}


def digest(config: Config) -> str:
    """Return the sha256 (hex) of the semantic config: equal for two runs that must give the same metrics."""
    text = json.dumps(semantic(config), sort_keys=True, ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def with_values(config: Config, values: Mapping[str, Any]) -> Config:
    """Return the config with other values, by key with dots."""
    for key, value in values.items():
        config = _with(config, key.split("."), value)
    return config


def _with(section: Any, names: Sequence[str], value: Any) -> Any:
    """Return a section, or a mapping in one, with another value where the `names`, one within the other, lead."""
    name, *within = names
    if within:
        value = _with(_in(section, name), within, value)
    return {**section, name: value} if isinstance(section, Mapping) else replace(section, **{name: value})


def value_of(config: Config, key: str) -> Any:
    """Return what stands at `key`, with dots; all of it at the empty one."""
    return functools.reduce(_in, filter(None, key.split(".")), config)


def _in(section: Any, name: str) -> Any:
    return section[name] if isinstance(section, Mapping) else getattr(section, name)


def trains_head_alone(mode: FreezeModeConfig) -> bool:
    """Return whether nothing but the head ever learns, in one phase."""
    rules = [rule for phase in mode.phases for rule in phase.rules if rule.lr_scale]
    return len(mode.phases) == 1 and not mode.phases[0].stepwise and all(r.match.startswith("head/") for r in rules)


def takes_plain_head_steps(config: Config) -> bool:
    """Return whether a run is of a head alone, by steps whose gradient has a closed form, on features that are kept.

    Those of several such runs can be taken in lockstep.
    """
    mode, features, train = config.freeze_mode, config.features, config.train
    if mode.solver is not None or not trains_head_alone(mode) or not (features.enabled and features.lockstep):
        return False
    if train.mixup or train.cutmix or train.clip_norm is not None or train.ema_decay is not None:
        return False
    return train.loss == "cross_entropy" and train.class_weights is None and train.sampling == "shuffled"


def choices(config: Config) -> dict[str, Any]:
    """Return the short names that people filter on, but for those that the freeze mode does not read.

    A head that is solved on weights from scratch has these, too: they are all that its seed draws.
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
    return {**found, **({"model.weights": None} if config.freeze_mode.solver and not config.model.weights else {})}
