"""Detect typed keys that no run reads, given the chosen options: an error or a note.

Every key of the schema that only some options read has a rule here, so that none is ignored silently.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from frostline.core.config import EMBEDDED, OWN_FILES, Config
from frostline.core.config_keys import SOLVERS, is_read, is_within, shrinks_train, value_of
from frostline.core.errors import user_error


@dataclass(frozen=True)
class _Rule:
    """The condition under which some keys are read."""

    keys: str
    """The keys, separated by blanks, and all keys within them."""
    read: Callable[[Config], bool]
    wanted: str
    """The setting under which they are read, for messages."""
    group: str = ""
    """The key that decides; by default the `name` in the section of the first key."""


def _mirrors(config: Config) -> bool:
    return config.augment.flip and config.data.flip


def _random(config: Config) -> bool:
    how = config.augment
    return how.crop != "none" or _mirrors(config) or how.color > 0 or how.trivial


def _within(section: str, names: str) -> str:
    """Return full keys from names within a section, separated by blanks."""
    return " ".join(f"{section}.{name}" for name in names.split())


def _of_adapters(names: str, kinds: Sequence[str], wanted: str) -> _Rule:
    """Return the rule for adapter keys that only some `kinds` read."""
    keys = _within("freeze_mode.adapter", names)
    return _Rule(keys, lambda c: c.freeze_mode.adapter.kind in kinds, wanted)


_OF_SEARCH = "trials freeze_mode.space " + _within(
    "search", "options space seed batch prune confirm budget amount storage objective past"
)
_MISTAKES = (
    _Rule(
        "data.root",
        lambda c: c.data.source not in EMBEDDED,
        "data=image_folder or another data set that lies in a folder",
    ),
    _Rule("data.layout", lambda c: c.data.source == "folder", "data=image_folder, whose folders it is about"),
    _Rule(
        "data.download",
        lambda c: c.data.source not in (*EMBEDDED, *OWN_FILES),
        "a data set of torchvision, as data=cifar10",
    ),
    _Rule("data.fold", lambda c: c.data.folds is not None, "data.folds=5", "data.folds"),
    _Rule(
        "data.test_fraction",
        lambda c: c.data.folds is None,
        "data.folds=null, as each fold is the test split of a run",
        "data.folds",
    ),
    _Rule(
        "data.subset_seed",
        lambda c: shrinks_train(c.data),
        "data.shots, data.limit or data.fraction, whose images it draws",
    ),
    _Rule(
        "augment.scale augment.ratio",
        lambda c: c.augment.crop == "random_resized",
        "augment=standard, augment=trivial or augment.crop=random_resized",
    ),
    _Rule("augment.padding", lambda c: c.augment.crop == "pad", "augment=crop_flip or augment.crop=pad"),
    _Rule("augment.flip", _mirrors, "data.flip=true, which says that a mirrored image keeps its class", "data.name"),
    _Rule(
        "schedule.final", lambda c: c.schedule.name in ("cosine", "onecycle"), "schedule=cosine or schedule=onecycle"
    ),
    _Rule("schedule.milestones schedule.gamma", lambda c: c.schedule.name == "step", "schedule=step"),
    _Rule("model.sha256", lambda c: c.model.weights is not None, "model.weights=<file or name>", "model.weights"),
    _of_adapters(
        "where", ("lora", "dora", "ia3", "ssf", "bottleneck", "prompt"), "freeze=lora or another mode with adapters"
    ),
    _of_adapters("rank", ("lora", "dora", "bottleneck"), "freeze=lora, freeze=dora or freeze=adapter"),
    _of_adapters("alpha", ("lora", "dora"), "freeze=lora or freeze=dora"),
    _of_adapters("dropout", ("lora", "bottleneck", "prompt"), "freeze=lora, freeze=adapter or freeze=prompt"),
    _of_adapters("parallel scale", ("bottleneck",), "freeze=adapter"),
    _of_adapters("tokens deep", ("prompt",), "freeze=prompt"),
    _of_adapters("where_inputs", ("ia3",), "freeze=ia3"),
    _Rule("train.focal_gamma", lambda c: c.train.loss == "focal", "train.loss=focal", "train.loss"),
    _Rule(_OF_SEARCH, lambda c: c.search.name != "grid", "search=tpe or another way to search", "search.name"),
    _Rule(
        "trials",
        lambda c: c.search.budget == "trials" or (c.search.budget == "epochs" and c.search.amount is None),
        "search.budget=trials",
        "search.budget",
    ),
)
"""Errors: the run would differ from what the user expects."""
_NOTES = (
    _Rule(
        "data.missing_classes",
        lambda c: c.data.source in OWN_FILES,
        f"a data set of your own, data={', '.join(('image_folder', *OWN_FILES[1:]))}",
    ),
    _Rule(
        "data.skip_bad data.max_pixels data.range data.range_of",
        lambda c: c.data.source not in EMBEDDED,
        "a data set of image files, as data=image_folder",
    ),
    _Rule(
        "data.pixels",
        lambda c: c.augment.crop != "none",
        "an augmentation that crops at random, as augment=standard: other views are exact in any case",
        "augment.name",
    ),
    _Rule("data.flip", _mirrors, "augment.flip=true", "augment.name"),
    _Rule("features.views", _random, "an augmentation with something random, as augment=standard", "augment.name"),
    _Rule(
        "schedule.span",
        lambda c: c.schedule.name != "constant" or c.schedule.warmup > 0,
        "a schedule that moves, as schedule=cosine",
    ),
    _Rule(
        "optimizer.decay_norm_and_bias",
        lambda c: c.optimizer.weight_decay > 0,
        "an optimizer.weight_decay above 0",
        "optimizer.weight_decay",
    ),
    _Rule("train.patience", lambda c: (c.train.patience or 0) < c.epochs, "more epochs than that", "epochs"),
    _Rule(_within("cluster", "gpus cpus at_once"), lambda c: c.cluster.name != "local", "cluster=slurm or cluster=ray"),
    _Rule(
        _within("cluster", "partition hours memory_gb"),
        lambda c: c.cluster.name not in ("local", "ray"),
        "cluster=slurm",
    ),
    _Rule("store.path store.budget_gb", lambda c: c.store.enabled, "store.enabled=true", "store.enabled"),
)
"""Notes: the key has no effect."""


def check(typed: Mapping[str, str], configs: Sequence[Config]) -> list[str]:
    """Return a note for each of the keys `typed`, with its value, that no run of the sweep reads.

    `configs` are those of its runs. Raises `UserError` if the key must be a mistake. The values false and null are
    always accepted. Hydra's own keys are among `typed` only in commands that start no sweep.
    """
    lines = [*_of_hydra(typed), *_of_solvers(typed, configs)]
    for rule in (*_MISTAKES, *_NOTES):
        names = rule.keys.split()
        group = rule.group or f"{names[0].partition('.')[0]}.name"
        for key, value in typed.items():
            if not is_within(key, names) or value.lower() in ("false", "null") or any(map(rule.read, configs)):
                continue
            chosen = " and ".join(sorted({_as_typed(value_of(config, group)) for config in configs}))
            why = f"{rule.wanted}; with {group.removesuffix('.name')}={chosen} nothing reads it"
            if rule in _MISTAKES:
                raise user_error(key, value, f"to be given with {why}")
            lines.append(f"{key}={value} has no effect: it needs {why}")
    return lines


def _as_typed(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _of_hydra(typed: Mapping[str, str]) -> list[str]:
    """Return a note for each of Hydra's own keys, except the one that adds config folders."""
    unread = [key for key in typed if key.startswith(("hydra.", "hydra/")) and key != "hydra.searchpath"]
    return [f"{key}={typed[key]} has no effect here: only a sweep reads it" for key in unread]


def _of_solvers(typed: Mapping[str, str], configs: Sequence[Config]) -> list[str]:
    """Return a note for each key of training steps if no run makes steps; UserError for an option of another mode."""
    lines = []
    for key, value in typed.items():
        if any(is_read(key, config.freeze_mode.solver) for config in configs):
            continue
        modes = " and ".join(sorted({config.freeze_mode.name for config in configs}))
        if (option := key.removeprefix("freeze_mode.")) != key:
            wanted = " or ".join(f"freeze={solver}" for solver, options in SOLVERS.items() if option in options)
            raise user_error(key, value, f"to be given with {wanted}; with freeze_mode={modes} nothing reads it")
        lines.append(f"{key}={value} has no effect: it needs a freeze mode that trains in steps, not {modes}")
    return lines
