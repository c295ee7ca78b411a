"""Hydra's own keys that a sweep cannot follow: refused before anything starts, since Hydra itself takes any of them.

What is not named here works as Hydra's documentation has it. This module needs nothing but Hydra's config.
"""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence

from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf

from frostline.core.config import Config, DataConfig
from frostline.core.errors import NOTHING, UserError, user_error
from frostline.core.hydra_errors import unreadable
from frostline.core.project import config_folder

_ONE = "since a single run is a sweep of one"
_TYPED = {  # what must be seen before Hydra does it, and what else may be said there
    "hydra.mode": ("MULTIRUN", f"MULTIRUN, {_ONE}"),
    "hydra/sweeper": ("frostline", "frostline, which checks every run before the first starts"),
    "hydra.run.dir": (None, f"nothing, {_ONE}; hydra.sweep.dir=<folder> says where it lies"),
}
_WITH_VALUES = (  # flags of Hydra
    *("--cfg", "-c", "--config-dir", "-cd", "--config-path", "-cp", "--config-name", "-cn", "--package", "-p"),
    *("--info", "-i", "--experimental-rerun"),
)
_SUBDIR = "${hydra:job.num}"  # what stands there where nobody says otherwise
_FOLD = "data.fold"
_MOST_FOLDS = 1000  # more is a mistake, of which the data's own check tells
_LONGEST = 250  # bytes of an option's name, which is a file's: of a longer one the system speaks before Hydra does
_OUTPUT = re.compile(r"\.\w[\w.-]*")


def check_typed(arguments: Sequence[str], commands: Callable[[], Sequence[str]] = tuple) -> None:
    """Raise `UserError` for what would have Hydra pass our sweeper by, or has no effect, in the command line.

    One of the `commands` may have been meant by what is no key.
    """
    for before, argument in itertools.pairwise(["", *arguments]):
        key, equals, value = argument.lstrip("+").partition("=")
        if not value and ((key in _WITH_VALUES and equals) or (before in _WITH_VALUES and not key)):
            raise user_error(key or before, "", NOTHING)
        if equals and not key:
            raise unreadable(argument, commands())  # Hydra takes the missing key for a group
        is_group = "/" in key or key == "freeze" or (key.isidentifier() and (config_folder() / key).is_dir())
        if is_group and any(len(os.fsencode(option)) > _LONGEST for option in value.split(",")):
            raise user_error(key, value, "the name of an option, see --help")
        if key in _TYPED and value != _TYPED[key][0]:
            raise user_error(key, value, _TYPED[key][1])
        if key == "hydra.launcher":
            expected = f"a slash, hydra/launcher={value}, or keys within it, as hydra.launcher.workers"
            raise user_error(key, value, expected)


def flags_first(arguments: Sequence[str]) -> list[str]:
    """Return the arguments with flags before overrides: Hydra takes no override behind a flag that is behind one."""
    places = itertools.pairwise(["", *arguments])
    flags = [one.startswith("-") or before in _WITH_VALUES for before, one in places]
    return [*itertools.compress(arguments, flags), *itertools.compress(arguments, (not flag for flag in flags))]


def typed_values(overrides: Iterable[str]) -> dict[str, str]:
    """Return what is typed for each key, by its name alone; of a key that is given twice the last counts."""
    return {key.lstrip("+"): value for key, _, value in (one.partition("=") for one in overrides)}


def settings_of(jobs: Iterable[Sequence[str]]) -> list[dict[str, str]]:
    """Return what is typed for each job, by key as it is typed."""
    return [dict(override.split("=", 1) for override in overrides) for overrides in jobs]


def varied(settings: Sequence[Mapping[str, str]]) -> list[str]:
    """Return the keys of jobs, all of which have the same, whose values are not the same in all of them."""
    return [key for key in settings[0] if len({setting[key] for setting in settings}) > 1]


def as_read(argument: str) -> str:
    """Return an argument of the command line as Hydra is to read it.

    `lr=auto` is a range, and not a number; several objectives are one value, and not one for each of several sweeps.
    """
    key, _, value = argument.partition("=")
    if key.lstrip("+") == "lr" and value == "auto":
        return f"{key}=choice({value})"
    several = key.lstrip("+") == "search.objective" and value not in ("", "null") and not value.startswith("[")
    return f"{key}=[{value}]" if several else argument


def of_launcher(typed: Iterable[str]) -> list[str]:
    """Return what is `typed` of who carries runs out, a cluster perhaps."""
    return [one for one in typed if one.lstrip("+").startswith(("hydra/launcher", "hydra.launcher."))]


def check(config: DictConfig, *, own_launcher: bool) -> None:
    """Raise `UserError` for a value in the config of a sweep that its runs cannot follow."""
    hydra = config.hydra
    if hydra.job.chdir:
        expected = (
            "false: what a run writes goes into its folder, and relative paths are from where the command is typed"
        )
        raise user_error("hydra.job.chdir", "true", expected)
    if hydra.output_subdir is not None and not _OUTPUT.fullmatch(str(hydra.output_subdir)):
        expected = "null, or a name that begins with a dot, as .hydra does, for a folder among a run's own files"
        raise user_error("hydra.output_subdir", hydra.output_subdir, expected)
    batch = hydra.sweeper.max_batch_size
    if batch is not None and own_launcher:
        expected = "null with hydra/launcher=frostline, of which hydra.launcher.workers runs go on at the same time"
        raise user_error("hydra.sweeper.max_batch_size", batch, expected)
    if batch is not None and batch < 1:
        raise user_error("hydra.sweeper.max_batch_size", batch, "a whole number of at least 1, or null")


def subdir(config: DictConfig) -> str | None:
    """Return what somebody wants the folders of runs to be called, as it stands there; None where nobody does."""
    told = str(OmegaConf.to_container(config.hydra.sweep)["subdir"])  # type: ignore[index, call-overload]
    return None if told == _SUBDIR else told


def points(overrides: Sequence[Override]) -> list[list[str]]:
    """Return the overrides of every job: all combinations of the values given, the last key's changing first.

    Of a key that is given twice the last counts. UserError for one that stands for no value at all, or for a range.
    """
    values: dict[str, list[str]] = {}
    for one in overrides:
        typed = str(one.input_line).partition("=")[2]
        if one.is_sweep_override() and not one.is_discrete_sweep():
            expected = "values with commas between, as a grid has no ranges; search=tpe searches them"
            raise user_error(str(one.key_or_group), typed, expected)
        found = [*one.sweep_string_iterator()] if one.is_sweep_override() else [one.get_value_element_as_str()]
        if not found:
            raise user_error(str(one.key_or_group), typed, "at least one value, and this stands for none")
        key = one.get_key_element()
        if key.lstrip("+") == "lr" and "auto" in found:
            raise user_error("lr", "auto", "numbers with commas between in a grid; search=tpe searches a range")
        values[key] = [f"{key}={value}" for value in found]
    return [[*job] for job in itertools.product(*values.values())]


def in_folds(jobs: Sequence[Sequence[str]], config_of: Callable[[Sequence[str]], Config]) -> Sequence[Sequence[str]]:
    """Return the jobs, each that has `data.folds`, typed or from a file, once for each of its folds.

    Where the folds are named they are those.
    """
    if any(one.partition("=")[0].lstrip("+") == _FOLD for one in jobs[0]):
        return jobs
    counts = [_folds(config_of(job).data) for job in jobs]
    if not any(counts):
        return jobs
    return [[*job, f"{_FOLD}={fold}"] for job, count in zip(jobs, counts, strict=True) for fold in range(max(1, count))]


def _folds(data: DataConfig) -> int:
    """Return the number of folds that a job is to be there for; 0 where it has none, or one of them."""
    return 0 if data.fold or data.folds is None or data.folds > _MOST_FOLDS else data.folds


def not_ours() -> UserError:
    """Return the error for a job that no sweep of ours began."""
    return UserError(f"hydra.mode, hydra/sweeper: expected MULTIRUN and frostline, {_ONE}")
