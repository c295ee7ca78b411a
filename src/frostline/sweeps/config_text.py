"""The text of a run's `config.yaml`: sections that are the same in many runs are converted to YAML once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from omegaconf import OmegaConf

_latest: dict[str, tuple[str, str]] = {}
"""By key: its last value, as its repr and as YAML."""


def config_text(values: Mapping[str, Any]) -> str:
    """Return plain `values` as YAML; OmegaConf alone takes as long for a whole config as an epoch of a head."""
    return "".join(_lines(key, value) for key, value in values.items())


def _lines(key: str, value: Any) -> str:
    """Return the YAML lines of one key and everything below it."""
    told = repr(value)
    if key not in _latest or _latest[key][0] != told:
        _latest[key] = told, OmegaConf.to_yaml({key: value})
    return _latest[key][1]
