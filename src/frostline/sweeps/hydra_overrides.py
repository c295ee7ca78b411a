"""Overrides as typed: their values, their ranges, and the jobs that they ask for.

A job is a combination of the listed values; its overrides are a list, e.g. `["freeze=head", "lr=0.001"]`.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterable, Mapping, Sequence

from hydra.core.override_parser.types import ChoiceSweep, IntervalSweep, Override, RangeSweep
from omegaconf import DictConfig

from frostline.core import credentials
from frostline.core.config import Config, DataConfig
from frostline.core.errors import user_error

Overrides = Sequence[str]
"""The overrides of one job."""
OF_MODE = "search.space."
"""Prefix of a range for one freeze mode, as `search.space.head.lr`."""
AUTO = "auto"
"""As the value of `lr`: the range of the freeze mode."""
_FOLD = "data.fold"
_MOST_FOLDS = 1000  # more is a mistake, which the check of the data reports


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


def settings_of(jobs: Iterable[Overrides]) -> list[dict[str, str]]:
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


def is_search(overrides: Sequence[Override], compose: Callable[[Overrides], DictConfig]) -> bool:
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


def in_folds(jobs: Sequence[Overrides], config_of: Callable[[Overrides], Config]) -> Sequence[Overrides]:
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
