"""The runs of a sweep, composed and checked before any of them starts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from threading import RLock
from types import MappingProxyType
from typing import Any

import hydra
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig

from frostline.core.config import Config
from frostline.core.config_keys import choices, digest, flatten, is_read, with_values
from frostline.core.errors import UserError, user_error
from frostline.core.hydra_errors import FOUND_WRONG, explain
from frostline.core.project import at_home, config_folder, register_resolver
from frostline.records import run_folders
from frostline.records.result import value_text
from frostline.sweeps import hydra_keys, search_space
from frostline.sweeps.compose_cache import Composer
from frostline.sweeps.composed import Jobs, read

_ALONE = RLock()
_NOWHERE = "hydra.sweep.dir=."  # the same folder for all, whatever the time
_NAMED = ("freeze", "freeze_mode", "lr", "seed")  # overrides that a run's name states anyway
Overrides = Sequence[str]
"""What the command line says of one run, e.g. `["freeze=head", "lr=0.001"]`."""


@dataclass(frozen=True)
class PlannedRun:
    """One run of the sweep before it starts."""

    config: Config
    name: str
    """e.g. `head lr=0.001 seed=0`."""
    choices: dict[str, Any]
    """The short names, and what else differs within the sweep."""
    folder: str
    """Where it lies, relative to the sweep's folder."""
    overrides: Overrides = ()
    """What was typed for it."""
    jobs: int = 1
    """How many combinations of what was typed are this run, since they differ in nothing but what is `unread`."""
    unread: tuple[str, ...] = ()
    """Keys that are varied, and that it does not read."""
    elsewhere: Path | None = None
    """Its folder in the sweep of another process, which had it before."""


def compose_all(
    jobs: Sequence[Overrides],
    compose: Callable[[Overrides], DictConfig],
    after_first: Callable[[Config], object] = lambda config: None,
) -> tuple[Path, list[PlannedRun]]:
    """Return the sweep's folder and the runs of the jobs, without those that differ in nothing that they read.

    Raises `UserError` for values that no run can have, for a run given twice, and for folders that runs would share.
    `after_first` is called as soon as the first config has passed. What is cross-validated is a run for each fold.
    """
    of_job = Jobs(compose)
    after_first(of_job(jobs[0], 0).config)
    jobs = hydra_keys.in_folds(jobs, lambda overrides: of_job(overrides, 0).config)
    settings = hydra_keys.settings_of(jobs)
    varied = hydra_keys.varied(settings)
    planned: list[PlannedRun] = []
    sweeps: list[str] = []
    first: dict[tuple[str, str], int] = {}
    for overrides, setting in zip(jobs, settings, strict=True):
        one = of_job(overrides, len(planned))
        config = one.config
        solver = config.freeze_mode.solver
        unread = [key for key in varied if not is_read(key.lstrip("+"), solver)]
        twin = first.setdefault((digest(config), config.data.root), len(planned)) if unread else len(planned)
        if twin < len(planned) and _same(planned[twin].overrides, overrides, but=unread):
            told = tuple(key for key in unread if key not in _NAMED[:2])
            planned[twin] = replace(planned[twin], jobs=planned[twin].jobs + 1, unread=told)
            continue
        extras = {key.lstrip("+"): setting[key] for key in varied if key not in (*_NAMED, *unread)}
        name = _name(config, extras)
        planned.append(PlannedRun(config, name, {**choices(config), **_typed(config, extras)}, one.folder, overrides))
        sweeps.append(one.sweep)
    _require_distinct(planned)
    if len(set(sweeps)) > 1:
        expected = f"one folder for all runs, not also {next(s for s in sweeps if s != sweeps[0])}; "
        raise user_error("hydra.sweep.dir", sweeps[0], f"{expected}hydra.sweep.subdir is that of a run within it")
    run_folders.require_distinct([run.folder for run in planned])
    return Path(sweeps[0]).absolute(), planned


def compose_trial(
    setting: Mapping[str, str],
    of_job: Jobs,
    *,
    folder: str,
    shown: Sequence[str] = (),
    marks: Mapping[str, Any] = MappingProxyType({}),
) -> PlannedRun:
    """Return the run of a search that has the values of `setting`, by key, and lies in `folder`.

    Of these values those `shown` are choices beside the short names, as are `marks`. Raises `UserError` as
    `compose_all` does.
    """
    overrides = [f"{key}={value}" for key, value in setting.items()]
    config = of_job(overrides, 0).config
    extras = {key.lstrip("+"): setting[key] for key in shown if key not in _NAMED and key in setting}
    typed = _typed(config, extras)
    trial = {name: value for name, value in marks.items() if name == "trial"}
    return PlannedRun(
        config, _name(config, {**trial, **typed}), {**choices(config), **typed, **marks}, folder, overrides
    )


def _name(config: Config, extras: Mapping[str, Any]) -> str:
    """Return what people call a run: its freeze mode, lr, seed, and `extras`, which differ within the sweep."""
    short = choices(config)
    stated = {**{key: value for key, value in short.items() if key in ("lr", "seed")}, **extras}
    return " ".join([short["freeze_mode"], *(f"{key}={value_text(value)}" for key, value in stated.items())])


def sweep_folder(compose: Callable[[Overrides], DictConfig], overrides: Overrides) -> Path:
    """Return where Hydra has a sweep lie, given the overrides of one of its runs."""
    return Path(read(compose(overrides), overrides, 0).sweep).absolute()


@contextmanager
def composing() -> Iterator[None]:
    """Have Hydra read our options in the block, which one thread at a time is in.

    It is one for the whole process: what somebody else has initialised it with, a notebook or `hydra.main`, comes back.
    """
    with _ALONE:
        theirs, GlobalHydra.instance().hydra = GlobalHydra.instance().hydra, None
        try:
            with initialize_config_dir(str(config_folder()), version_base="1.3"):
                yield
        finally:
            GlobalHydra.instance().hydra = theirs


def compose_one(overrides: Overrides) -> Config:
    """Return the checked config of one run, and leave Hydra as it was; raises `UserError` as `compose_all` does."""
    with _composing_typed(overrides) as typed:
        return read(hydra.compose("config", overrides=typed, return_hydra_config=True), overrides, 0).config


def compose_grid(overrides: Overrides, *, searched: bool = False) -> list[PlannedRun]:
    """Return the runs of the sweep that `overrides`, with commas between values, ask for; leaves Hydra as it was.

    Where it may be `searched`, ranges are left out: one run stands for all trials of a cell. Raises `UserError` as
    `compose_all` does. Nothing is said of folders, which these runs are not to have.
    """
    with _composing_typed(overrides) as typed:
        parsed = OverridesParser.create(config_loader=GlobalHydra.instance().config_loader()).parse_overrides(typed)
        jobs = hydra_keys.points(search_space.split(parsed)[0] if searched else parsed)
        return compose_all(jobs, Composer(lambda job: hydra.compose("config", [*job, _NOWHERE], True)))[1]


@contextmanager
def _composing_typed(overrides: Overrides) -> Iterator[list[str]]:
    """Do what `composing` does for what a person typed, which is yielded as Hydra takes it; UserError for mistakes."""
    register_resolver()
    hydra_keys.check_typed(overrides)
    try:
        with composing():
            yield [*map(at_home, overrides)]
    except FOUND_WRONG as error:
        raise explain(error, overrides) from None


def settled(planned: Sequence[PlannedRun], meaning: Mapping[str, Mapping[str, Any]]) -> list[PlannedRun]:
    """Return the runs with what `auto` means to each kind (`to_check`), by key, in its place.

    A run in float32 is not the run in bf16 that another machine makes of the same words, nor is one from weights the
    run from those whose file's place they took. Raises `UserError` for a run that is there twice now.
    """
    found = [settled_as(run, meaning[kind(run.config)]) for run in planned]
    _require_distinct(found)
    return found


def settled_as(run: PlannedRun, meaning: Mapping[str, Any]) -> PlannedRun:
    """Return the run with what `auto` means to it, by key, in its place, or in that of null."""
    values = flatten(run.config)
    said = {key: value for key, value in meaning.items() if values[key] in ("auto", None)}
    shown = {key: value for key, value in said.items() if key in run.choices}
    return replace(run, config=with_values(run.config, said), choices={**run.choices, **shown})


def _require_distinct(planned: Sequence[PlannedRun]) -> None:
    seen: dict[tuple[str, str], int] = {}
    for number, run in enumerate(planned):
        if (twin := seen.setdefault((digest(run.config), run.config.data.root), number)) != number:
            raise UserError(f"{run.name}: expected once in a sweep, but its runs {twin} and {number} are both this one")


def _same(one: Overrides, other: Overrides, *, but: Sequence[str]) -> bool:
    """Return whether two jobs differ, and in nothing `but` some keys."""
    mine, theirs = hydra_keys.settings_of((one, other))
    differing = [key for key in mine if mine[key] != theirs[key]]
    return bool(differing) and set(differing) <= set(but)


def _typed(config: Config, typed: Mapping[str, str]) -> dict[str, Any]:
    """Return what was typed for some keys, numbers as the config has them: `1e-1` and 0.1 are one choice."""
    values = flatten(config) if typed else {}
    return {key: value if isinstance(value := values.get(key), int | float) else text for key, text in typed.items()}


def to_check(planned: Sequence[PlannedRun]) -> dict[str, Config]:
    """Return one config for each device, model, mode, optimizer, augmentation and data that differs."""
    return {kind(run.config): run.config for run in planned}


def kind(config: Config) -> str:
    """Return what runs have in common that are checked together."""
    parts = (config.device, config.model, config.freeze_mode, config.optimizer, config.augment, config.data)
    return repr(parts)


def in_order(planned: Sequence[PlannedRun]) -> list[int]:
    """Return the numbers of the runs in the order in which they run: those that share features after each other."""
    groups: dict[str, list[int]] = {}
    for number, config in enumerate(run.config for run in planned):
        groups.setdefault(repr((config.model, config.data, config.freeze_mode)), []).append(number)
    return [number for group in groups.values() for number in group]
