"""Compare backbones before a sweep: pass images through each once, and time a few steps of each freeze mode."""

from __future__ import annotations

import gc
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from frostline.core.config import Config, FreezeModeConfig
from frostline.core.errors import user_error
from frostline.core.value_errors import key_of
from frostline.report.terminal import Screen
from frostline.sweeps import find_weights, hydra_overrides, unused_keys
from frostline.sweeps.compose import PlannedRun, compose_grid, compose_one, to_check
from frostline.sweeps.hydra_overrides import Overrides
from frostline.sweeps.search_budget import Budget

if TYPE_CHECKING:
    from frostline.runs.appraisal import Appraisal, Sample
    from frostline.runs.costs import Cost
    from frostline.runs.setup import Setup

_MODES = "freeze=head,last_stage,lora,full"
_APPRAISAL_MODES = ("head", "probe", "knn")
"""Freeze modes for the appraisal of a backbone, whatever modes the sweep has."""


@dataclass(frozen=True)
class ComparedBackbone:
    """One of the compared backbones."""

    name: str
    """A name that distinguishes it from the others."""
    typed: Mapping[str, str]
    """Its typed values of the keys under `model` that vary."""
    appraisal: Appraisal
    costs: tuple[Cost, ...]
    """Cost of each freeze mode that trains in steps, in the order typed."""
    too_large: tuple[str, ...]
    """Freeze modes whose step does not fit into the GPU's memory."""


@dataclass(frozen=True)
class CellSearch:
    """The runs of each cell of a search."""

    budget: Budget
    confirm: int
    """Number of further runs of the best trial."""


@dataclass(frozen=True)
class BackboneComparison:
    """The comparison of all backbones, and the data that it is based on."""

    backbones: tuple[ComparedBackbone, ...]
    """In the order typed."""
    typed: Mapping[str, str]
    """The typed overrides by key, with the default freeze modes if none were typed."""
    solved: tuple[str, ...]
    """Freeze modes that solve the head without steps, at the cost of one extraction of features."""
    points: int
    """Number of runs of each freeze mode of each backbone; in a search, of cells."""
    data: str
    images: Mapping[str, int]
    """Number of images of each split."""
    sample: Mapping[str, int]
    """Number of images in the sample by split, and of classes as `classes`."""
    notes: tuple[str, ...]
    """What a sweep would report about data, weights and keys."""
    search: CellSearch | None = None
    """What a cell costs if the sweep is a search; None for a grid."""


def advise(overrides: Overrides, *, images: int, screen: Screen) -> BackboneComparison:
    """Compare the backbones of the sweep of these `overrides`; no network is fine-tuned.

    Uses at most `images` images. UserError for whatever a sweep refuses, before the first backbone runs.
    """
    from frostline.data import loading
    from frostline.runs import appraisal  # imports torch

    asked = any(key_of(one) in ("freeze", "freeze_mode") for one in overrides)
    given = [*map(hydra_overrides.as_typed, overrides), *([] if asked else [_MODES])]
    planned = compose_grid(given)
    values = hydra_overrides.typed_values(given)
    _require_one_data_set(planned, values)
    notes = unused_keys.check(values, [run.config for run in planned]) + _check(planned)
    modes = _modes_of(planned[0].overrides)
    data = _assembled(planned[0].config, screen, meta=True).data
    sample = appraisal.draw(data, images, planned[0].config.data.split_seed)
    appraised = (partial(_appraised, typed, runs, sample, modes, screen) for typed, runs in _by_backbone(planned))
    return BackboneComparison(
        backbones=tuple(loading.despite_damage(each, screen.say) for each in appraised),
        typed={key: value for key, _, value in (one.partition("=") for one in given)},
        solved=tuple(dict.fromkeys(run.config.freeze_mode.name for run in planned if run.config.freeze_mode.solver)),
        points=max(Counter(repr((run.config.model, run.config.freeze_mode)) for run in planned).values()),
        search=_search_of(planned[0].config),
        data=planned[0].config.data.name,
        images={"train": len(data.train), "val": len(data.val)},
        sample={"train": len(sample.train), "val": len(sample.val), "classes": len(data.classes)},
        notes=tuple(notes),
    )


def _search_of(config: Config) -> CellSearch | None:
    """Return what a search does in each cell; None for a grid."""
    search = config.search
    return None if search.name == "grid" else CellSearch(Budget.of(config, searched=True), search.confirm)


def _require_one_data_set(planned: Sequence[PlannedRun], values: Mapping[str, str]) -> None:
    sets = [replace(run.config.data, fold=0, subset_seed=None) for run in planned]
    for data in sets:  # several folds, or draws of train, count as one data set; the first one is used
        if data != sets[0]:
            several = (key for key, value in values.items() if key.split(".")[0] == "data" and "," in value)
            key = next(several, "data")
            raise user_error(key, values.get(key), "one value, since backbones are compared on the same images")


def _check(planned: Sequence[PlannedRun]) -> list[str]:
    """Return the findings about data and weights; UserError for a run that cannot work."""
    from frostline.runs import checks  # imports torch

    told: dict[str, None] = {}
    for config in to_check(planned).values():
        told |= dict.fromkeys(one.about for one in checks.check(config, find_weights.weights).findings)
    return list(told)


def _by_backbone(planned: Sequence[PlannedRun]) -> Iterator[tuple[Mapping[str, str], list[PlannedRun]]]:
    """Yield for each backbone its typed values that vary, by key, and its runs."""
    groups: dict[str, list[PlannedRun]] = {}
    for run in planned:
        groups.setdefault(repr(run.config.model), []).append(run)
    settings = hydra_overrides.settings_of(runs[0].overrides for runs in groups.values())
    keys = [key for key in hydra_overrides.varied(settings) if key.split(".")[0] == "model"]
    for setting, runs in zip(settings, groups.values(), strict=True):
        yield {key: setting[key] for key in keys}, runs


def _modes_of(overrides: Overrides) -> dict[str, FreezeModeConfig]:
    """Return the configs of the freeze modes for the appraisal, with the other overrides."""
    rest = [one for one in overrides if key_of(one).split(".")[0] not in ("freeze", "freeze_mode")]
    return {name: compose_one([*rest, f"freeze={name}"]).freeze_mode for name in _APPRAISAL_MODES}


def _appraised(
    typed: Mapping[str, str],
    runs: Sequence[PlannedRun],
    sample: Sample,
    modes: Mapping[str, FreezeModeConfig],
    screen: Screen,
) -> ComparedBackbone:
    """Appraise the backbone of `runs` and measure its costs; `typed` distinguishes it from the others."""
    from frostline.runs import appraisal

    name = " ".join(value if key == "model" else f"{key}={value}" for key, value in typed.items())
    name = name or runs[0].config.model.name
    screen.say(f"{name}: {len(sample.train) + len(sample.val):,} images")
    setup = _assembled(replace(runs[0].config, freeze_mode=modes["head"]), screen)
    found = appraisal.appraise(setup, sample, probe=modes["probe"], knn=modes["knn"])
    del setup  # two networks may not fit into memory
    first = {run.config.freeze_mode.name: run.config for run in reversed(runs)}
    costs: dict[str, Cost | None] = {}
    for mode in dict.fromkeys(run.config.freeze_mode.name for run in runs):
        if first[mode].freeze_mode.solver is None:
            screen.say(f"{name}: steps of {mode}")
            costs[mode] = _cost(first[mode], found.seconds, screen)
    fitting = tuple(cost for cost in costs.values() if cost is not None)
    return ComparedBackbone(name, typed, found, fitting, tuple(mode for mode, cost in costs.items() if cost is None))


def _cost(config: Config, seconds: float, screen: Screen) -> Cost | None:
    """Return the cost of a run; None if a step does not fit into the GPU. Restores torch's random state."""
    import torch

    from frostline.runs import costs

    try:
        setup = _assembled(config, screen)
        with torch.random.fork_rng([setup.device] if setup.device.type == "cuda" else []):
            return costs.measure(setup, seconds)
    except torch.OutOfMemoryError:
        return None


def _assembled(config: Config, screen: Screen, *, meta: bool = False) -> Setup:
    """Assemble the setup of a run, after collecting garbage of the last one, since peak memory is measured."""
    from frostline.runs import setup

    gc.collect()
    with tempfile.TemporaryDirectory() as folder:
        return setup.assemble(config, Path(folder), meta=meta, screen=screen, fetch=find_weights.weights)
