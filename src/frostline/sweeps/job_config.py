"""The config of a job: checked from Hydra's, as it is recorded, and as the text of `config.yaml`."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from typing import Any

from omegaconf import DictConfig, OmegaConf

from frostline.core import credentials
from frostline.core.config import Config
from frostline.core.config_keys import with_values
from frostline.core.errors import user_error
from frostline.core.validation import parse

_latest: dict[str, tuple[str, str]] = {}
"""By key: its last value, as its repr and as YAML."""


@dataclass(frozen=True)
class JobConfig:
    """The config of a job, as it runs and as it is recorded."""

    config: Config
    values: Mapping[str, Any]
    """The config for the record, without secrets from the environment."""
    command: Sequence[str]
    """The overrides that the user typed for it."""

    def with_values(self, values: Mapping[str, Any]) -> JobConfig:
        """Return the config with `values`, by key, set in the config and in its recorded form."""
        written = deepcopy(dict(self.values))
        for key, value in values.items():
            *sections, name = key.split(".")
            functools.reduce(dict.__getitem__, sections, written)[name] = value
        return replace(self, config=with_values(self.config, values), values=written)


def config_of(composed: DictConfig) -> Config:
    """Return the checked config from Hydra's, without the `hydra` section; UserError for credentials in it."""
    raw = OmegaConf.to_container(composed.search, resolve=False)
    if isinstance(raw, dict) and isinstance(place := raw["storage"], str) and credentials.removed(place) != place:
        expected = "no credentials in a config; `'${oc.env:NAME}'` takes all of it from a variable"
        raise user_error("search.storage", credentials.removed(place), expected)
    values = {str(key): composed[key] for key in composed if key != "hydra"}
    return parse(
        {
            key: OmegaConf.to_container(value, resolve=True, throw_on_missing=True)
            if OmegaConf.is_config(value)
            else value
            for key, value in values.items()
        }
    )


def recordable(composed: DictConfig, config: Config) -> dict[str, Any]:
    """Return the config for the record: values from the environment stay as `${oc.env:NAME}`."""
    raw = OmegaConf.to_container(composed, resolve=False)
    return credentials.unresolved(asdict(config), raw)  # type: ignore[arg-type]


def config_text(values: Mapping[str, Any]) -> str:
    """Return plain `values` as YAML; OmegaConf alone takes as long for a whole config as an epoch of a head."""
    return "".join(_lines(key, value) for key, value in values.items())


def _lines(key: str, value: Any) -> str:
    told = repr(value)
    if key not in _latest or _latest[key][0] != told:
        _latest[key] = told, OmegaConf.to_yaml({key: value})
    return _latest[key][1]
