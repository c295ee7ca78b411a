"""What is known of backbones before a sweep: each is looked at once, and a few steps of each freeze mode are timed."""

from __future__ import annotations

import gc
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from frostline.core.config import Config, FreezeModeConfig
from frostline.core.errors import user_error
from frostline.report.terminal import Screen
from frostline.sweeps import find_weights, unused_keys
from frostline.sweeps.compose import Overrides, PlannedRun, compose_grid, compose_one, to_check

if TYPE_CHECKING:
    from frostline.runs.advice import Appraisal, Sample
    from frostline.runs.costs import Cost

_MODES = "freeze=head,last_stage,lora,full"
_OWN = ("head", "probe", "knn")
"""What a backbone is looked at with, whatever modes are asked for."""


@dataclass(frozen=True)
class Backbone:
    """One of those that are compared."""

    name: str
    """What tells it from the others."""
    typed: Mapping[str, str]
    """What was typed of it where that varies, by key."""
    appraisal: Appraisal
    costs: tuple[Cost, ...]
    """Of each mode that trains in steps, in the order typed."""
    too_large: tuple[str, ...]
    """The modes of which a step does not fit into the GPU."""


@dataclass(frozen=True)
class Advice:
    """What is known of all of them, and of how much it was found out."""

    backbones: tuple[Backbone, ...]
    """In the order typed."""
    typed: Mapping[str, str]
    """What was typed, or is the default here, by key."""
    solved: tuple[str, ...]
    """The freeze modes among these that make no steps, which take one extraction."""
    points: int
    """Runs that were asked for of each mode of each backbone."""
    data: str
    images: Mapping[str, int]
    """Number of all images of each split."""
    sample: Mapping[str, int]
    """Number of those that were looked at; of these `classes` is that of classes."""
    notes: tuple[str, ...]
    """What a sweep would have said of data, weights and keys."""


def advise(overrides: Overrides, *, pictures: int, screen: Screen) -> Advice:
    """Return what is known of the backbones of the sweep that `overrides` ask for; nothing is trained.

    At most so many `pictures` are looked at. UserError for whatever a sweep refuses, before the first is looked at.
    """
    typed = [one for one in overrides if "=" in one]
    given = [*overrides, *([] if any(_key(one) in ("freeze", "freeze_mode") for one in typed) else [_MODES])]
    planned = compose_grid(given)
    values = {_key(one): one.partition("=")[2] for one in given}
    notes = unused_keys.check(values, [run.config for run in planned])
    _require_one_data_set(planned, values)
    notes += _check(planned, screen)
    groups = _by_backbone(planned)
    looks = _Looks(pictures, _modes_of(planned[0].overrides), screen)
    backbones = tuple(looks.at(name, runs) for name, runs in _named(groups))
    assert looks.sample is not None
    solved = tuple(dict.fromkeys(r.config.freeze_mode.name for r in planned if r.config.freeze_mode.solver))
    points = max(len(runs) // len({run.config.freeze_mode.name for run in runs}) for runs in groups)
    counts = {"train": len(looks.sample.train), "val": len(looks.sample.val), "classes": looks.classes}
    return Advice(backbones, values, solved, points, planned[0].config.data.name, looks.images, counts, tuple(notes))


def _key(override: str) -> str:
    return override.partition("=")[0].lstrip("+")


def _require_one_data_set(planned: Sequence[PlannedRun], values: Mapping[str, str]) -> None:
    for run in planned:
        if run.config.data != planned[0].config.data:
            several = (key for key, value in values.items() if key.split(".")[0] == "data" and "," in value)
            key = next(several, "data")
            raise user_error(key, values.get(key), "one value, since backbones are compared on the same pictures")


def _check(planned: Sequence[PlannedRun], screen: Screen) -> list[str]:
    """Return what is to be told of data and weights; UserError for a run that could not be one."""
    from frostline.runs import setup  # imports torch

    told: dict[str, None] = {}
    for config in to_check(planned).values():
        told |= dict.fromkeys(one.about for one in setup.check(config, find_weights.weights).findings)
    return list(told)


def _by_backbone(planned: Sequence[PlannedRun]) -> list[list[PlannedRun]]:
    groups: dict[str, list[PlannedRun]] = {}
    for run in planned:
        groups.setdefault(repr(run.config.model), []).append(run)
    return [*groups.values()]


def _named(groups: Sequence[list[PlannedRun]]) -> Iterator[tuple[Mapping[str, str], list[PlannedRun]]]:
    """Yield what was typed of each backbone where that varies, and its runs."""
    settings = [dict(one.split("=", 1) for one in runs[0].overrides) for runs in groups]
    keys = [key for key in settings[0] if key.split(".")[0] == "model" and len({s[key] for s in settings}) > 1]
    for setting, runs in zip(settings, groups, strict=True):
        yield {key: setting[key] for key in keys}, runs


def _modes_of(overrides: Overrides) -> dict[str, FreezeModeConfig]:
    """Return the freeze modes that a backbone is looked at with, whatever was typed of others."""
    rest = [one for one in overrides if _key(one).split(".")[0] not in ("freeze", "freeze_mode")]
    return {name: compose_one([*rest, f"freeze={name}"]).freeze_mode for name in _OWN}


class _Looks:
    """Looks at one backbone after the other, all of them on the pictures of the first."""

    def __init__(self, pictures: int, modes: Mapping[str, FreezeModeConfig], screen: Screen) -> None:
        self._pictures, self._modes, self._screen = pictures, modes, screen
        self.sample: Sample | None = None
        self.images: Mapping[str, int] = {}
        self.classes = 0

    def at(self, typed: Mapping[str, str], runs: Sequence[PlannedRun]) -> Backbone:
        name = " ".join(value if key == "model" else f"{key}={value}" for key, value in typed.items())
        name = name or runs[0].config.model.name
        self._screen.say(f"{name}: looked at")
        appraisal = self._appraised(replace(runs[0].config, freeze_mode=self._modes["head"]))
        found: list[Cost] = []
        too_large: list[str] = []
        first = {run.config.freeze_mode.name: run.config for run in reversed(runs)}
        for mode in dict.fromkeys(run.config.freeze_mode.name for run in runs):
            if first[mode].freeze_mode.solver is None:
                self._screen.say(f"{name}: some steps of {mode}")
                cost = self._cost(first[mode], appraisal.seconds)
                found += [] if cost is None else [cost]
                too_large += [mode] if cost is None else []
        return Backbone(name, typed, appraisal, tuple(found), tuple(too_large))

    def _appraised(self, config: Config) -> Appraisal:
        from frostline.runs import advice, setup

        gc.collect()
        with tempfile.TemporaryDirectory() as folder:
            made = setup.assemble(config, Path(folder), meta=False, screen=self._screen, fetch=find_weights.weights)
        data = made.data
        if self.sample is None:
            self.sample, self.classes = advice.draw(data, self._pictures, config.data.split_seed), len(data.classes)
            self.images = {"train": len(data.train), "val": len(data.val)}
        return advice.appraise(made, self.sample, probe=self._modes["probe"], knn=self._modes["knn"])

    def _cost(self, config: Config, seconds: float) -> Cost | None:
        """Return what a run costs; None where a step of it does not fit into the GPU."""
        import torch

        from frostline.runs import costs, setup

        gc.collect()
        try:
            with tempfile.TemporaryDirectory() as folder:
                made = setup.assemble(config, Path(folder), meta=False, screen=self._screen, fetch=find_weights.weights)
            return costs.measure(made, seconds)
        except torch.OutOfMemoryError:
            return None
