"""Keys that were typed and that nothing reads, given the options that were chosen: a mistake, or worth a word.

A key of the schema that only some options read has its rule here, so that none comes to nothing in silence.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from frostline.core.config import EMBEDDED, OWN_FILES, Config
from frostline.core.config_keys import SOLVERS, is_read, value_of
from frostline.core.errors import user_error


@dataclass(frozen=True)
class _Rule:
    """Who reads some keys."""

    keys: tuple[str, ...]
    read: Callable[[Config], bool]
    wanted: str
    """What would have them read."""
    group: str
    """The key that decides."""
    mistake: bool = False
    """Whether the run would be another one than the person believes."""


def _mirrors(config: Config) -> bool:
    return config.augment.flip and config.data.flip


def _random(config: Config) -> bool:
    how = config.augment
    return how.crop != "none" or _mirrors(config) or how.color > 0 or how.trivial


def _of_adapters(keys: Sequence[str], kinds: Sequence[str], wanted: str) -> _Rule:
    """Return the rule of keys of an adapter that some kinds read."""
    names = tuple(f"freeze_mode.adapter.{key}" for key in keys)
    return _Rule(names, lambda c: c.freeze_mode.adapter.kind in kinds, wanted, "freeze_mode.name", mistake=True)


_RULES = (
    _Rule(
        ("data.root",),
        lambda c: c.data.source not in EMBEDDED,
        "data=image_folder or another data set that lies in a folder",
        "data.name",
        mistake=True,
    ),
    _Rule(
        ("data.layout",),
        lambda c: c.data.source == "folder",
        "data=image_folder, whose folders it is about",
        "data.name",
        mistake=True,
    ),
    _Rule(
        ("data.missing_classes",),
        lambda c: c.data.source in OWN_FILES,
        f"a data set of your own, data={', '.join(('image_folder', *OWN_FILES[1:]))}",
        "data.name",
    ),
    _Rule(
        ("data.download",),
        lambda c: c.data.source not in (*EMBEDDED, *OWN_FILES),
        "a data set of torchvision, as data=cifar10",
        "data.name",
        mistake=True,
    ),
    _Rule(
        ("data.skip_bad", "data.max_pixels", "data.range", "data.range_of"),
        lambda c: c.data.source not in EMBEDDED,
        "a data set of picture files, as data=image_folder",
        "data.name",
    ),
    _Rule(("data.fold",), lambda c: c.data.folds is not None, "data.folds=5", "data.folds", mistake=True),
    _Rule(
        ("data.test_fraction",),
        lambda c: c.data.folds is None,
        "data.folds=null, as each fold is the test split of a run",
        "data.folds",
        mistake=True,
    ),
    _Rule(
        ("data.pixels",),
        lambda c: c.augment.crop != "none",
        "an augmentation that crops at random, as augment=standard: other views are exact in any case",
        "augment.name",
    ),
    _Rule(
        ("augment.scale", "augment.ratio"),
        lambda c: c.augment.crop == "random_resized",
        "augment=standard, augment=trivial or augment.crop=random_resized",
        "augment.name",
        mistake=True,
    ),
    _Rule(
        ("augment.padding",),
        lambda c: c.augment.crop == "pad",
        "augment=crop_flip or augment.crop=pad",
        "augment.name",
        mistake=True,
    ),
    _Rule(
        ("augment.flip",),
        _mirrors,
        "data.flip=true, which says that a mirrored image keeps its class",
        "data.name",
        mistake=True,
    ),
    _Rule(("data.flip",), _mirrors, "augment.flip=true", "augment.name"),
    _Rule(("features.views",), _random, "an augmentation with something random, as augment=standard", "augment.name"),
    _Rule(
        ("schedule.final",),
        lambda c: c.schedule.name in ("cosine", "onecycle"),
        "schedule=cosine or schedule=onecycle",
        "schedule.name",
        mistake=True,
    ),
    _Rule(
        ("schedule.milestones", "schedule.gamma"),
        lambda c: c.schedule.name == "step",
        "schedule=step",
        "schedule.name",
        mistake=True,
    ),
    _Rule(
        ("schedule.span",),
        lambda c: c.schedule.name != "constant" or c.schedule.warmup > 0,
        "a schedule that moves, as schedule=cosine",
        "schedule.name",
    ),
    _Rule(
        ("model.sha256",),
        lambda c: c.model.weights is not None,
        "model.weights=<file or name>",
        "model.weights",
        mistake=True,
    ),
    _Rule(
        ("optimizer.decay_norm_and_bias",),
        lambda c: c.optimizer.weight_decay > 0,
        "an optimizer.weight_decay above 0",
        "optimizer.weight_decay",
    ),
    _of_adapters(
        ("where",), ("lora", "dora", "ia3", "ssf", "bottleneck", "prompt"), "freeze=lora or another mode with adapters"
    ),
    _of_adapters(("rank",), ("lora", "dora", "bottleneck"), "freeze=lora, freeze=dora or freeze=adapter"),
    _of_adapters(("alpha",), ("lora", "dora"), "freeze=lora or freeze=dora"),
    _of_adapters(("dropout",), ("lora", "bottleneck", "prompt"), "freeze=lora, freeze=adapter or freeze=prompt"),
    _of_adapters(("parallel", "scale"), ("bottleneck",), "freeze=adapter"),
    _of_adapters(("tokens", "deep"), ("prompt",), "freeze=prompt"),
    _of_adapters(("where_inputs",), ("ia3",), "freeze=ia3"),
    _Rule(("train.focal_gamma",), lambda c: c.train.loss == "focal", "train.loss=focal", "train.loss", mistake=True),
    _Rule(("train.patience",), lambda c: (c.train.patience or 0) < c.epochs, "more epochs than that", "epochs"),
    _Rule(
        (
            "trials",
            *(f"search.{key}" for key in ("seed", "batch", "prune", "confirm", "budget", "amount", "storage")),
            *("search.objective", "search.past"),
        ),
        lambda c: c.search.name != "grid",
        "search=tpe or another way to search",
        "search.name",
        mistake=True,
    ),
    _Rule(
        ("trials",),
        lambda c: c.search.budget == "trials" or (c.search.budget == "epochs" and c.search.amount is None),
        "search.budget=trials",
        "search.budget",
        mistake=True,
    ),
    _Rule(("store.path", "store.budget_gb"), lambda c: c.store.enabled, "store.enabled=true", "store.enabled"),
)


def check(typed: Mapping[str, str], configs: Sequence[Config]) -> list[str]:
    """Return a line for each of the keys `typed`, with its value, that no run of the sweep reads.

    `configs` are those of its runs. Raises `UserError` where the key is there by mistake. What switches something off
    is no mistake anywhere.
    """
    lines = _of_solvers(typed, configs)
    for rule in _RULES:
        for key in rule.keys:
            value = typed.get(key)
            if value is None or value.lower() in ("false", "null") or any(map(rule.read, configs)):
                continue
            chosen = " and ".join(sorted({str(value_of(config, rule.group)) for config in configs}))
            why = f"{rule.wanted}; with {rule.group.removesuffix('.name')}={chosen} nothing reads it"
            if rule.mistake:
                raise user_error(key, value, f"to be given with {why}")
            lines.append(f"{key}={value} has no effect: it wants {why}")
    return lines


def _of_solvers(typed: Mapping[str, str], configs: Sequence[Config]) -> list[str]:
    """Return a line for each key that steps alone read, where none is made; UserError for an option of no mode here."""
    lines = []
    for key, value in typed.items():
        if any(is_read(key, config.freeze_mode.solver) for config in configs):
            continue
        modes = " and ".join(sorted({config.freeze_mode.name for config in configs}))
        if (option := key.removeprefix("freeze_mode.")) != key:
            wanted = " or ".join(f"freeze={solver}" for solver, options in SOLVERS.items() if option in options)
            raise user_error(key, value, f"to be given with {wanted}; with freeze_mode={modes} nothing reads it")
        lines.append(f"{key}={value} has no effect: it wants a freeze mode that trains in steps, not {modes}")
    return lines
