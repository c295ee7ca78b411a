"""The search space: ranges in Hydra's syntax, converted to the distributions that Optuna draws from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil, floor, isfinite
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, IntervalSweep, Override, RangeSweep
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import Trial

from frostline.core.config import Config
from frostline.core.config_keys import flatten, is_read, is_semantic, is_within
from frostline.core.errors import user_error
from frostline.sweeps.hydra_overrides import AUTO, OF_MODE, is_auto, typed_value

_ONE_DECADE = 10.0
"""A range of learning rates that spans more than this factor is searched on a log scale."""
_FIXED = ("seed", "select", "threads", "data", "search", "hydra")
"""Keys and groups that decide a run's metrics, but are no settings of training."""


def of_cell(config: Config, listed: Mapping[str, str], ranges: Mapping[str, Override]) -> dict[str, BaseDistribution]:
    """Return the search space of the cell of `config`, by key, without keys that its freeze mode does not read.

    `listed` keys are fixed. A range for one freeze mode (`search.space.<mode>.<key>`) has precedence over one for all
    modes, which has precedence over those in the mode's own file. Raises UserError for an invalid range.
    """
    given, solver = _ranges_of(config, listed, ranges), config.freeze_mode.solver
    found = {key: one for key, one in given.items() if is_read(key, solver)}
    if "lr" in found and is_auto(found["lr"]):
        found["lr"] = _auto_lr(config, found["lr"])
    space, known = {key: distribution(key, one) for key, one in found.items()}, flatten(config)
    for key, drawn in space.items():
        if isinstance(drawn, FloatDistribution) and type(known.get(key)) is int:
            low, high = ceil(drawn.low), floor(drawn.high)
            expected = f"whole numbers: range({low},{high + 1}) or int(interval({low},{high}))"
            raise user_error(key, typed_value(found[key]), expected)
    return space


def _ranges_of(config: Config, listed: Mapping[str, str], ranges: Mapping[str, Override]) -> dict[str, Override]:
    """Return the ranges of a cell, by key; only `lr=auto` selects that of `lr` in the mode's file."""
    mode = config.freeze_mode
    mine = f"{OF_MODE}{mode.name}."
    with_mode = _parsed(flatten({key: value for key, value in mode.space.items() if key != "lr"}))
    in_file = _parsed(flatten(config.search.space.get(mode.name) or {}))
    for place, given in (("freeze_mode.space.", with_mode), (mine, in_file)):
        for key, one in given.items():
            _require_trained(key, f"{place}{key}", one)
    found = {key: one for key, one in with_mode.items() if key not in listed}
    found |= {key: one for key, one in ranges.items() if not key.startswith(OF_MODE)} | in_file
    return found | {key.removeprefix(mine): one for key, one in ranges.items() if key.startswith(mine)}


def _auto_lr(config: Config, typed: Override) -> Override:
    """Return the range of the freeze mode for the optimizer of the config, in place of the `typed` `lr=auto`."""
    if isinstance(value := typed.value(), ChoiceSweep) and len(value.list) > 1:
        raise user_error("lr", typed_value(typed), "auto alone, which is a range, or numbers with commas between")
    by_optimizer = config.freeze_mode.space.get("lr") or {}
    if (text := by_optimizer.get(config.optimizer.name)) is None:
        mode, optimizer = config.freeze_mode.name, config.optimizer.name
        known = f" (it has one for {', '.join(by_optimizer)})" if by_optimizer else ""
        expected = f"a range, since freeze_mode={mode} has none for optimizer={optimizer} in its space{known}"
        raise user_error("lr", AUTO, expected)
    return _parsed({"lr": text})["lr"]


def _parsed(texts: Mapping[str, Any]) -> dict[str, Override]:
    """Parse ranges from a YAML file, in Hydra's syntax of the command line."""
    parser = OverridesParser.create()
    return {key: parser.parse_overrides([f"{key}={text}"])[0] for key, text in texts.items()}


def check_keys(ranges: Mapping[str, Override], modes: Sequence[str], groups: Sequence[str]) -> None:
    """Raise UserError for a key that cannot be searched: a group, no setting of training, a mode of no run.

    `modes` are those of the sweep, `groups` the config groups.
    """
    for key, one in ranges.items():
        if key.startswith(OF_MODE):
            mode, _, rest = key.removeprefix(OF_MODE).partition(".")
            if mode not in modes:
                raise user_error("search.space", mode, f"a freeze mode of this sweep ({', '.join(modes)})", modes)
            if not rest:
                raise user_error(key, typed_value(one), "a key behind the mode, as search.space.full.lr")
        else:
            rest = key
        if rest in (*groups, "freeze"):
            raise user_error(key, typed_value(one), "options with commas between, since a group has no range")
        _require_trained(rest, key, one)


def _require_trained(name: str, key: str, one: Override) -> None:
    """Raise UserError for the typed `key` if `name` is no setting of training."""
    if is_within(name, _FIXED) or not is_semantic(name):
        raise user_error(key, typed_value(one), "one value, since it is not a setting of training")


def distribution(key: str, one: Override) -> BaseDistribution:
    """Return the distribution from which Optuna draws the values of `key`; UserError for an invalid range."""
    value, typed = one.value(), typed_value(one)
    if isinstance(value, ChoiceSweep):
        return CategoricalDistribution(_choices(key, one, value))
    log = isinstance(value, IntervalSweep | RangeSweep) and "log" in value.tags
    if isinstance(value, RangeSweep):
        return _stepped(key, one, log=log)
    if not isinstance(value, IntervalSweep):
        raise user_error(key, typed, "a range: interval(1e-5,1), range(1,10) or choice(4,8,16)")
    low, high = value.start, value.end
    if low is None or high is None or not (isfinite(low) and isfinite(high) and low < high):
        raise user_error(key, typed, "a lower end below the upper one, both finite")
    log = log or (key == "lr" and (low <= 0 or high / low > _ONE_DECADE))
    if log and low <= 0:
        raise user_error(key, typed, "a lower end above 0, since it is searched on a log scale")
    if isinstance(low, int) and isinstance(high, int):
        return IntDistribution(low, high, log=log)
    return FloatDistribution(low, high, log=log)


def _stepped(key: str, one: Override, *, log: bool) -> BaseDistribution:
    values = [_as_written(float(text)) for text in one.sweep_string_iterator()]
    if len(values) < 2:
        raise user_error(key, typed_value(one), "at least two values")
    low, high, step = min(values), max(values), _as_written(abs(values[1] - values[0]))
    whole = all(value.is_integer() for value in values)
    if log and not (whole and step == 1 and low >= 1):
        raise user_error(key, typed_value(one), "tag(log,interval(a,b)), since a range in steps has no log scale")
    if whole:
        return IntDistribution(int(low), int(high), log=log, step=int(step))
    return FloatDistribution(low, high, step=step)


def _as_written(value: float) -> float:
    """Return 0.3 for 0.30000000000000004, as steps add up to: else Optuna cuts off the last value of a range."""
    return float(f"{value:.12g}")


def _choices(key: str, one: Override, value: ChoiceSweep) -> list[Any]:
    texts = [*one.sweep_string_iterator()]
    found = [
        real if isinstance(real, bool | int | float) else text for real, text in zip(value.list, texts, strict=True)
    ]
    if len(set(map(repr, found))) != len(found) or not found:
        raise user_error(key, typed_value(one), "values that differ")
    return found


def suggest(trial: Trial, key: str, values: BaseDistribution) -> Any:
    """Return the value of `key` in a trial: the one that it has, or a new one from its sampler."""
    if isinstance(values, FloatDistribution):
        return trial.suggest_float(key, values.low, values.high, step=values.step, log=values.log)
    if isinstance(values, IntDistribution):
        return trial.suggest_int(key, values.low, values.high, step=values.step, log=values.log)
    assert isinstance(values, CategoricalDistribution)
    return trial.suggest_categorical(key, values.choices)


def value_of(text: str, values: BaseDistribution) -> Any | None:
    """Return the recorded `text` as a value of the distribution, None if it is outside of it or between its steps."""
    if isinstance(values, CategoricalDistribution):
        return next((one for one in values.choices if str(one) == text), None)
    try:
        value = int(text) if isinstance(values, IntDistribution) else float(text)
        return value if values._contains(values.to_internal_repr(value)) else None
    except ValueError:
        return None


def text_of(value: Any) -> str:
    """Return a value as text for the command line, with all digits."""
    return str(value).lower() if isinstance(value, bool) else repr(value) if isinstance(value, float) else str(value)


def ends(space: Mapping[str, BaseDistribution]) -> list[dict[str, Any]]:
    """Return points of a space that together contain the lowest and highest value, or all choices, of each key."""
    corners = {
        key: [*one.choices] if isinstance(one, CategoricalDistribution) else [one.low, one.high]  # type: ignore[attr-defined]
        for key, one in space.items()
    }
    count = max(map(len, corners.values()), default=1)
    return [{key: values[min(number, len(values) - 1)] for key, values in corners.items()} for number in range(count)]


def words(key: str, one: BaseDistribution) -> str:
    """Return a range in words, e.g. `lr from 1e-05 to 1 on a log scale`."""
    if isinstance(one, CategoricalDistribution):
        return f"{key} among {', '.join(map(text_of, one.choices))}"
    low, high, log, step = (getattr(one, name) for name in ("low", "high", "log", "step"))
    steps = f" in steps of {step:g}" if step and not (isinstance(step, int) and step == 1) else ""
    return f"{key} from {low:g} to {high:g}{steps}{' on a log scale' if log else ''}"
