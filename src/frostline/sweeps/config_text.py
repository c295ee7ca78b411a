"""What a run's `config.yaml` says: of many runs most sections are the same, and are put into YAML once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from omegaconf import OmegaConf

_latest: dict[str, tuple[str, str]] = {}
"""By key: the value that it had last, as Python prints it, and that in YAML."""


def config_text(values: Mapping[str, Any]) -> str:
    """Return plain `values` as OmegaConf writes them, which takes as long for a whole config as an epoch of a head."""
    return "".join(_lines(key, value) for key, value in values.items())


def _lines(key: str, value: Any) -> str:
    """Return the lines of one key, with all that is below it."""
    told = repr(value)
    if key not in _latest or _latest[key][0] != told:
        _latest[key] = told, OmegaConf.to_yaml({key: value})
    return _latest[key][1]
