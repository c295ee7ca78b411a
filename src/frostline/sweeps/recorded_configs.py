"""The config of a recorded run: its paths made absolute, and checked for a run on this machine with overrides."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, get_type_hints

import hydra
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from frostline.core import untrusted
from frostline.core.config import Config
from frostline.core.config_keys import is_semantic, is_within
from frostline.core.errors import UserError, one_line, unknown_key, user_error
from frostline.core.files import expanded
from frostline.core.hydra_errors import unreadable
from frostline.core.validation import parse
from frostline.records.layout import PROVENANCE
from frostline.sweeps import hydra_overrides
from frostline.sweeps.compose import composing

_WEIGHTS = "model.weights"
READ = ("store", "tracking", _WEIGHTS, "data.root", "data.download")
"""Keys that may be overridden where a record's images are only listed: where they lie, and what is known of them."""
_FREE = ("experiment_name", "device", "devices", "fsdp", "checkpoint", *READ)
"""Keys that a rerun may override: where it runs, reads and writes.

It starts from scratch, trains each run alone in this process, and saves the same weights, whose bytes are compared.
Initial weights elsewhere must have the sha256 in the record.
"""
_FROM_RECORD = ("device", "devices", "fsdp", "data.root", "data.download", "save_weights")
_PLACES = ("data.root", "data.options.splits", _WEIGHTS)
"""Keys whose value may be a path relative to the working directory."""


def configs_of(
    records: Iterable[Mapping[str, Any]], overrides: Sequence[str], free: Sequence[str] = _FREE
) -> list[Config]:
    """Return the checked configs of recorded values, for this machine with `overrides` of keys that are `free`.

    Settings that determine the metrics come from the record, as do the devices and `data.root`; paths for output and
    storage do not. UserError for values that are not plain or not in the schema, and for an override of another key.
    Values from the environment must be given again.
    """
    if words := [override for override in overrides if "=" not in override]:
        raise unreadable(words[0], ())
    given = hydra_overrides.typed_values(overrides)
    for key, value in given.items():
        if not is_within(key, free):
            raise user_error(key, value, f"nothing but {', '.join(free)}: all else is in the record")
    with composing(["resume=false", *overrides]) as typed:
        composed = hydra.compose("config", typed)
    return [_on_record(values, deepcopy(composed), given) for values in records]


def _on_record(values: Mapping[str, Any], config: DictConfig, given: Mapping[str, str]) -> Config:
    """Return the checked `config` with the recorded values in it, except for the keys that are `given`."""
    told: dict[str, Any] = {}
    try:
        for key, value in _settings(values):
            if key not in given and (key in _FROM_RECORD or is_semantic(key)):
                untrusted.require_plain(value, "the recorded config", f".{key}")
                if isinstance(value, Mapping) and OmegaConf.get_type(OmegaConf.select(config, key)) is dict:
                    # a recorded mapping replaces the default, and is not merged with it
                    OmegaConf.update(config, key, {}, merge=False)
                    OmegaConf.set_struct(OmegaConf.select(config, key), False)
                section, _, name = key.rpartition(".")
                (told.setdefault(section, {}) if section else told)[name] = value
        config.merge_with(told)  # in one call, since each merge takes milliseconds
        found = parse(OmegaConf.to_container(config, throw_on_missing=True))  # type: ignore[arg-type]
    except (OmegaConfBaseException, TypeError, ValueError, AttributeError) as problem:
        if isinstance(problem, UserError):
            raise
        raise UserError(f"the recorded config: {one_line(problem)}") from None
    if _WEIGHTS in given:
        _require_file(given[_WEIGHTS], found.model.sha256)
    return found


def _require_file(weights: str, recorded: str | None) -> None:
    """Raise `UserError` for weights given by name, and if the record has no sha256, by which the run checks a file."""
    from frostline.runs.initial_weights import on_disk  # imports torch

    if recorded is None or not on_disk(weights):
        expected = f"a file with the recorded sha256, {recorded or 'and none is recorded'}"
        raise user_error(_WEIGHTS, weights, expected)


def _settings(values: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield recorded keys, dotted inside a section, and their values; UserError for a key that cannot be one."""
    sections = [key for key, kind in get_type_hints(Config).items() if is_dataclass(kind)]
    for key, value in values.items():
        inside = value if key in sections and isinstance(value, Mapping) else {"": value}
        for name, inner in inside.items():
            if not (f"{key}{name}").isidentifier():
                raise unknown_key(f"{key}.{name}", inner)
            yield (f"{key}.{name}" if name else key), inner


def in_place(values: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Return the values of a record with relative paths made absolute, by the directory where they were typed.

    Paths that no longer exist, and values that are no path, such as names of weights, stay. `folder` has the record.
    """
    typed_in = untrusted.mapping(folder / PROVENANCE).get("directory") if (folder / PROVENANCE).exists() else None
    if isinstance(typed_in, str):
        for key in _PLACES:
            values = _placed(values, key.split("."), typed_in)
    return values


def _placed(value: Any, names: Sequence[str], typed_in: str) -> Any:
    """Return `value` with the path at the nested keys `names` made absolute by the directory `typed_in`."""
    if names:
        there = isinstance(value, Mapping) and names[0] in value
        return {**value, names[0]: _placed(value[names[0]], names[1:], typed_in)} if there else value
    if not isinstance(value, str) or "://" in value or expanded(value).is_absolute():
        return value
    place = os.path.join(typed_in, value)  # noqa: PTH118 - a pattern of shards is no path
    known = re.split(r"[*?{\[]", place)[0]
    found = Path(place if known == place else os.path.dirname(known))  # noqa: PTH120
    return place if found.is_dir() or (found.suffix and found.is_file()) else value
