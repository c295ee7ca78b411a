"""Compose the runs of a sweep with Hydra, and check them, before any of them starts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
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

from frostline.core import credentials, files
from frostline.core.config import Config
from frostline.core.config_keys import choices, digest, flatten, is_read, with_values
from frostline.core.errors import UserError, user_error
from frostline.core.hydra_errors import FOUND_WRONG, explain
from frostline.core.project import at_home, config_folder, register_resolver
from frostline.records import run_folders
from frostline.records.result import value_text
from frostline.sweeps import hydra_keys, hydra_overrides
from frostline.sweeps.composer import Composer, read
from frostline.sweeps.hydra_overrides import Overrides

_ALONE = RLock()
_NOWHERE = "hydra.sweep.dir=."  # the same folder for all runs, independent of the time
_NAMED = ("freeze", "freeze_mode", "lr", "seed")  # overrides that every run's name contains


@dataclass(frozen=True)
class PlannedRun:
    """One run of the sweep before it starts."""

    config: Config
    name: str
    """e.g. `head lr=0.001 seed=0`."""
    choices: dict[str, Any]
    """The short names, and other values that differ within the sweep."""
    folder: str
    """Its folder, relative to the sweep's folder."""
    overrides: Overrides = ()
    """The overrides typed for it."""
    hydra_options: Overrides = ()
    """What was typed for Hydra: config folders and keys of the launcher."""
    jobs: int = 1
    """Number of typed combinations that are this run, because they differ only in `unread` keys."""
    unread: tuple[str, ...] = ()
    """Keys that vary in the sweep, but that this run does not read."""
    elsewhere: Path | None = None
    """Its folder in another sweep, which ran it before."""

    @property
    def command(self) -> list[str]:
        """All options typed for it, without passwords."""
        return [credentials.scrubbed(argument) for argument in (*self.hydra_options, *self.overrides)]


def compose_all(jobs: Sequence[Overrides], compose: Composer) -> tuple[Path, list[PlannedRun]]:
    """Return the sweep's folder and the runs of the jobs; jobs that differ only in keys that they ignore are one run.

    Raises `UserError` for values that no run can have, for a run given twice, and for folders that runs would share.
    Cross-validation makes a run for each fold.
    """
    jobs = hydra_overrides.in_folds(jobs, lambda overrides: compose.job(overrides, 0).config)
    settings = hydra_overrides.settings_of(jobs)
    varied = hydra_overrides.varied(settings)
    planned: list[PlannedRun] = []
    sweeps: list[str] = []
    first: dict[str, int] = {}
    for overrides, setting in zip(jobs, settings, strict=True):
        one = compose.job(overrides, len(planned))
        config = one.config
        solver = config.freeze_mode.solver
        unread = [key for key in varied if not is_read(key.lstrip("+"), solver)]
        twin = first.setdefault(run_key(config), len(planned)) if unread else len(planned)
        if twin < len(planned) and _same(planned[twin].overrides, overrides, but=unread):
            told = tuple(key.lstrip("+") for key in unread)
            planned[twin] = replace(planned[twin], jobs=planned[twin].jobs + 1, unread=told)
            continue
        extras = {key.lstrip("+"): setting[key] for key in varied if key not in (*_NAMED, *unread)}
        name = _name(config, extras)
        shown = {**choices(config), **_typed(config, extras)}
        planned.append(PlannedRun(config, name, shown, one.folder, overrides, one.hydra_options))
        sweeps.append(one.sweep)
    _require_distinct(planned)
    if len(set(sweeps)) > 1:
        expected = f"one folder for all runs, not also {next(s for s in sweeps if s != sweeps[0])}; "
        raise user_error("hydra.sweep.dir", sweeps[0], f"{expected}hydra.sweep.subdir names the folder of a run in it")
    run_folders.require_distinct([run.folder for run in planned])
    return files.absolute(sweeps[0]), planned


def compose_trial(
    setting: Mapping[str, str],
    compose: Composer,
    *,
    folder: str,
    shown: Sequence[str] = (),
    marks: Mapping[str, Any] = MappingProxyType({}),
) -> PlannedRun:
    """Return the run of a search with the values of `setting`, by key, and with `folder` as its folder.

    Its choices are the short names, the values of the keys `shown`, and `marks`. Raises `UserError` as `compose_all`
    does.
    """
    overrides = [f"{key}={value}" for key, value in setting.items()]
    one = compose.job(overrides, 0)
    config = one.config
    extras = {key.lstrip("+"): setting[key] for key in shown if key not in _NAMED and key in setting}
    typed = _typed(config, extras)
    trial = {name: value for name, value in marks.items() if name == "trial"}
    name, marked = _name(config, {**trial, **typed}), {**choices(config), **typed, **marks}
    return PlannedRun(config, name, marked, folder, overrides, one.hydra_options)


def _name(config: Config, extras: Mapping[str, Any]) -> str:
    """Return the display name of a run: its freeze mode, lr, seed, and `extras`, which differ within the sweep."""
    short = choices(config)
    stated = {**{key: value for key, value in short.items() if key in ("lr", "seed")}, **extras}
    return " ".join([short["freeze_mode"], *(f"{key}={value_text(value)}" for key, value in stated.items())])


@contextmanager
def composing(overrides: Overrides = ()) -> Iterator[list[str]]:
    """Initialise Hydra with our configs for the block, and yield the typed overrides in the form that it takes.

    Hydra's state is global to the process: one thread at a time can enter, and an initialisation by a notebook or
    `hydra.main` is restored afterwards. Raises `UserError` for mistakes in the overrides, also those that Hydra finds.
    """
    register_resolver()
    hydra_keys.check_typed(overrides)
    with _ALONE:
        theirs, GlobalHydra.instance().hydra = GlobalHydra.instance().hydra, None
        try:
            with initialize_config_dir(str(config_folder()), version_base="1.3"):
                yield [*map(at_home, overrides)]
        except FOUND_WRONG as error:
            raise explain(error, overrides) from None
        finally:
            GlobalHydra.instance().hydra = theirs


def compose_one(overrides: Overrides) -> Config:
    """Return the checked config of one run, and restore Hydra's state; raises `UserError` as `compose_all` does."""
    with composing(overrides) as typed:
        return read(hydra.compose("config", overrides=typed, return_hydra_config=True), overrides, 0).config


def compose_grid(overrides: Overrides) -> list[PlannedRun]:
    """Return the runs of the sweep of `overrides`, with commas between values, and restore Hydra's state.

    In a search, ranges are left out: one run stands for all trials of a cell. Raises `UserError` as `compose_all`
    does. These runs are not meant to start, so their folders mean nothing.
    """
    with composing(overrides) as typed:
        parsed = OverridesParser.create(config_loader=GlobalHydra.instance().config_loader()).parse_overrides(typed)
        compose = Composer(lambda job: hydra.compose("config", [*job, _NOWHERE], True))
        searches = hydra_overrides.is_search(parsed, compose)
        return compose_all(hydra_overrides.points(hydra_overrides.split(parsed)[0] if searches else parsed), compose)[1]


def resolve_auto(planned: Sequence[PlannedRun], meaning: Mapping[str, Mapping[str, Any]]) -> list[PlannedRun]:
    """Return the runs with `auto` replaced by its values for each kind of run (`to_check`), by key.

    So a run in float32 differs from one in bf16 that the same command makes on another machine, and a run differs from
    one whose weights lay in the same file before. Raises `UserError` if two runs are the same now.
    """
    found = [with_auto(run, meaning[check_key(run.config)]) for run in planned]
    _require_distinct(found)
    return found


def with_auto(run: PlannedRun, meaning: Mapping[str, Any]) -> PlannedRun:
    """Return the run with the values of `meaning`, by key, in place of `auto` or null."""
    values = flatten(run.config)
    said = {key: value for key, value in meaning.items() if values[key] in ("auto", None)}
    shown = {key: value for key, value in said.items() if key in run.choices}
    return replace(run, config=with_values(run.config, said), choices={**run.choices, **shown})


def run_key(config: Config) -> str:
    """Return a key that is the same for two runs of a sweep that are one run: a digest does not cover the data."""
    return f"{digest(config)} {config.data.root}"


def _require_distinct(planned: Sequence[PlannedRun]) -> None:
    seen: dict[str, int] = {}
    for number, run in enumerate(planned):
        if (twin := seen.setdefault(run_key(run.config), number)) != number:
            raise UserError(f"{run.name}: expected once in a sweep, but its runs {twin} and {number} are both this one")


def _same(one: Overrides, other: Overrides, *, but: Sequence[str]) -> bool:
    """Return whether two jobs differ, but only in the keys `but`."""
    mine, theirs = hydra_overrides.settings_of((one, other))
    differing = [key for key in mine if mine[key] != theirs[key]]
    return bool(differing) and set(differing) <= set(but)


def _typed(config: Config, typed: Mapping[str, str]) -> dict[str, Any]:
    """Return typed values by key, numbers as in the config, so that `1e-1` and 0.1 are the same choice."""
    values = flatten(config) if typed else {}
    return {key: value if isinstance(value := values.get(key), int | float) else text for key, text in typed.items()}


def to_check(planned: Sequence[PlannedRun]) -> dict[str, Config]:
    """Return one config for each combination of device, model, freeze mode, optimizer, augmentation and data."""
    return {check_key(run.config): run.config for run in planned}


def check_key(config: Config) -> str:
    """Return a key that is the same for runs which one check covers."""
    parts = (config.device, config.model, config.freeze_mode, config.optimizer, config.augment, config.data)
    return repr(parts)


def in_order(planned: Sequence[PlannedRun]) -> list[int]:
    """Return the numbers of the runs in the order in which they run: runs that share features are consecutive."""
    groups: dict[str, list[int]] = {}
    for number, config in enumerate(run.config for run in planned):
        groups.setdefault(repr((config.model, config.data, config.freeze_mode)), []).append(number)
    return [number for group in groups.values() for number in group]
