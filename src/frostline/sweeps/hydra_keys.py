"""Checks of Hydra's own keys, and the expansion of overrides into jobs.

Hydra accepts every key of its own; the few that a sweep cannot honour are refused here, before anything starts. All
others work as Hydra's documentation says. This module needs nothing but Hydra's config.
"""

from __future__ import annotations

import itertools
import os
import re
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from hydra.core.override_parser.types import ChoiceSweep, IntervalSweep, Override, RangeSweep
from omegaconf import DictConfig, OmegaConf

from frostline.core import credentials
from frostline.core.config import Config, DataConfig
from frostline.core.errors import user_error
from frostline.core.hydra_errors import unreadable
from frostline.core.project import config_folder
from frostline.sweeps import hydra_flags

OF_MODE = "search.space."
"""Prefix of a range for one freeze mode, as `search.space.head.lr`."""
AUTO = "auto"
"""As the value of `lr`: the range of the freeze mode."""
_ONE = "since a single run is a sweep of one"
_TYPED = {  # keys to check before Hydra acts on them: the only value allowed, and what the error expects
    "hydra.mode": ("MULTIRUN", f"MULTIRUN, {_ONE}"),
    "hydra/sweeper": ("frostline", "frostline, which checks every run before the first starts"),
    "hydra.run.dir": (None, f"nothing, {_ONE}; hydra.sweep.dir=<folder> sets its folder"),
}
_SUBDIR = "${hydra:job.num}"  # the default
_FOLD = "data.fold"
_MOST_FOLDS = 1000  # more is a mistake, which the check of the data reports
_LONGEST = 250  # bytes of an option's name, which is a file name: a longer one raises OSError inside Hydra
_OUTPUT = re.compile(r"\.\w[\w.-]*")


def check_typed(arguments: Sequence[str], commands: Callable[[], Sequence[str]] = tuple) -> None:
    """Raise `UserError` for arguments that would bypass our sweeper or have no effect.

    The `commands` are suggested for a word that is no key.
    """
    hydra_flags.check(arguments)
    for before, argument in itertools.pairwise(["", *arguments]):
        key, equals, value = argument.lstrip("+").partition("=")
        if equals and not key:
            raise unreadable(argument, commands())  # Hydra would take the missing key for a group
        is_group = "/" in key or key == "freeze" or (key.isidentifier() and (config_folder() / key).is_dir())
        if is_group and any(len(os.fsencode(option)) > _LONGEST for option in value.split(",")):
            raise user_error(key, value, "the name of an option, see --help")
        if key in _TYPED and value != _TYPED[key][0]:
            raise user_error(key, value, _TYPED[key][1])
        if key == "hydra.launcher":
            expected = f"a slash, hydra/launcher={value}, or keys within it, as hydra.launcher.workers"
            raise user_error(key, value, expected)
        if value.endswith(".tar") and before.endswith(".tar") and before.startswith(f"{key}="):
            quoted = shlex.quote(f'{key}="train-{{000..099}}.tar"')
            raise user_error(
                key, value, f"one pattern of shards; the shell expands braces that are not quoted: {quoted}"
            )


def typed_values(overrides: Iterable[str]) -> dict[str, str]:
    """Return the typed values by key, without leading plus signs; the last value of a repeated key counts."""
    return {key.lstrip("+"): value for key, _, value in (one.partition("=") for one in overrides)}


def without_effect(overrides: Iterable[str]) -> list[str]:
    """Return a note for each override whose key has another value further on, as where a comma was forgotten."""
    shown = [credentials.scrubbed(as_typed(one).lstrip("+")) for one in overrides]
    last = {one.partition("=")[0]: one for one in shown}
    return [
        f"{one} has no effect: {counts} comes after it; values to compare have commas between them"
        for one in shown
        if (counts := last[one.partition("=")[0]]) != one
    ]


def settings_of(jobs: Iterable[Sequence[str]]) -> list[dict[str, str]]:
    """Return the typed values of each job, by key as typed."""
    return [dict(override.split("=", 1) for override in overrides) for overrides in jobs]


def varied(settings: Sequence[Mapping[str, str]]) -> list[str]:
    """Return the keys whose values differ between jobs; all jobs have the same keys."""
    return [key for key in settings[0] if len({setting[key] for setting in settings}) > 1]


def as_read(argument: str) -> str:
    """Return an argument of the command line in the form that Hydra needs.

    `lr=auto` stands for a range; several objectives are one list value, and not several jobs; `--detach` is an
    override.
    """
    if argument == "--detach":
        return "cluster.detach=true"
    key, _, value = argument.partition("=")
    if key.lstrip("+") == "lr" and value == "auto":
        return f"{key}=choice({value})"
    several = key.lstrip("+") == "search.objective" and value not in ("", "null") and not value.startswith("[")
    return f"{key}=[{value}]" if several else argument


def as_typed(argument: str) -> str:
    """Return an argument that `as_read` may have rewritten as it is typed: `lr=auto`."""
    return re.sub(rf"^(\+*lr)=choice\({AUTO}\)$", rf"\1={AUTO}", argument)


def hydra_options(hydra: Any) -> list[str]:
    """Return what was typed for Hydra, given its config: config folders and keys of the launcher."""
    folders = [f"--config-dir={one.path}" for one in hydra.runtime.config_sources if one.provider == "command-line"]
    launcher = ("hydra/launcher", "hydra.launcher.")
    return [*folders, *(one for one in hydra.overrides.hydra if one.lstrip("+").startswith(launcher))]


def check(config: DictConfig, *, own_launcher: bool) -> None:
    """Raise `UserError` for a value of Hydra's own config that a sweep cannot honour."""
    hydra = config.hydra
    if hydra.job.chdir:
        expected = "false: a run has its own folder; relative paths start at the working directory of the command"
        raise user_error("hydra.job.chdir", "true", expected)
    if config.cluster.detach and own_launcher:
        raise user_error("cluster.detach", "true", "to be given with cluster=slurm: here runs end with their command")
    if hydra.output_subdir is not None and not _OUTPUT.fullmatch(str(hydra.output_subdir)):
        expected = "null, or a name that begins with a dot, as .hydra, for a folder beside a run's own files"
        raise user_error("hydra.output_subdir", hydra.output_subdir, expected)
    batch = hydra.sweeper.max_batch_size
    if batch is not None and own_launcher:
        expected = "null with hydra/launcher=frostline, which runs hydra.launcher.workers jobs at the same time"
        raise user_error("hydra.sweeper.max_batch_size", batch, expected)
    if batch is not None and batch < 1:
        raise user_error("hydra.sweeper.max_batch_size", batch, "a whole number of at least 1, or null")


def subdir(config: DictConfig) -> str | None:
    """Return the pattern for the folders of runs, unresolved, if the user set one; else None."""
    told = str(OmegaConf.to_container(config.hydra.sweep)["subdir"])  # type: ignore[index, call-overload]
    return None if told == _SUBDIR else told


def split(overrides: Sequence[Override]) -> tuple[list[Override], dict[str, Override]]:
    """Return the listed or fixed overrides, and the ranges by key; the last value of a repeated key counts."""
    last = {one.get_key_element().lstrip("+"): one for one in overrides}
    ranges = {key: one for key, one in last.items() if _is_range(one)}
    return [one for one in last.values() if not _is_range(one)], ranges


def _is_range(one: Override) -> bool:
    value = one.value()
    if one.key_or_group.startswith(OF_MODE) or is_auto(one):
        return True
    return isinstance(value, IntervalSweep | RangeSweep) or (isinstance(value, ChoiceSweep) and not value.simple_form)


def is_auto(one: Override) -> bool:
    """Return whether an override is `lr=auto`, as typed or as `as_read` rewrites it."""
    value = one.value()
    return one.key_or_group.endswith("lr") and AUTO in (value, *(value.list if isinstance(value, ChoiceSweep) else ()))


def is_search(overrides: Sequence[Override], compose: Callable[[Sequence[str]], DictConfig]) -> bool:
    """Return whether the overrides, together with the config files, ask for a search."""
    return bool(compose(points(split(overrides)[0])[0]).search.name != "grid")


def typed_value(one: Override) -> str:
    """Return the value of an override as it was typed."""
    return str(one.input_line).partition("=")[2]


def points(overrides: Sequence[Override]) -> list[list[str]]:
    """Return the overrides of every job: all combinations of the values, the last key varying fastest.

    The last value of a repeated key counts. UserError for a key without any value, and for a range.
    """
    values: dict[str, list[str]] = {}
    for one in overrides:
        typed = typed_value(one)
        if one.is_sweep_override() and not one.is_discrete_sweep():
            expected = "values with commas between, since a grid has no ranges; search=tpe searches them"
            raise user_error(str(one.key_or_group), typed, expected)
        found = [*one.sweep_string_iterator()] if one.is_sweep_override() else [one.get_value_element_as_str()]
        if not found:
            raise user_error(str(one.key_or_group), typed, "at least one value, not an empty range")
        key = one.get_key_element()
        if key.lstrip("+") == "lr" and AUTO in found:
            raise user_error(
                "lr", AUTO, "numbers with commas between, since a grid has no ranges; search=tpe searches them"
            )
        values[key] = [f"{key}={value}" for value in found]
    return [[*job] for job in itertools.product(*values.values())]


def in_folds(jobs: Sequence[Sequence[str]], config_of: Callable[[Sequence[str]], Config]) -> Sequence[Sequence[str]]:
    """Return the jobs, with those that have `data.folds`, typed or from a file, once for each fold.

    Jobs that name `data.fold` themselves stay as they are.
    """
    if _FOLD in typed_values(jobs[0]):
        return jobs
    counts = [_folds(config_of(job).data) for job in jobs]
    if not any(counts):
        return jobs
    return [[*job, f"{_FOLD}={fold}"] for job, count in zip(jobs, counts, strict=True) for fold in range(max(1, count))]


def _folds(data: DataConfig) -> int:
    """Return the number of folds to expand a job into; 0 without folds, or if it names one of them."""
    return 0 if data.fold or data.folds is None or data.folds > _MOST_FOLDS else data.folds
