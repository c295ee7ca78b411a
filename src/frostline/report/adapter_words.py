"""Descriptions of a run's adapters: kind, rank, parameters, file size, and the error of merging them."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from frostline.core import untrusted
from frostline.core.errors import UserError
from frostline.records.layout import ADAPTER
from frostline.records.result import ADAPTER_BYTES, ADAPTER_PARAMETERS, MERGE_ERROR, Result, size, value_text

_SIZES = {"r": "rank", "lora_alpha": "alpha", "rank": "rank", "tokens": "tokens"}
"""Keys of `adapter_config.json` that state the size of an adapter, PEFT's first, and the words shown for them."""


def full(result: Result) -> str:
    """Return the full description; empty for a run without adapters.

    E.g. `lora rank=8 alpha=16, 294,912 parameters, 1.19 MB, merged to within 2e-07 of the largest logit`.
    """
    if ADAPTER_PARAMETERS not in result.metrics:
        return ""
    facts = _facts(result)
    sizes = [f"{said}={value_text(facts[name])}" for name, said in _SIZES.items() if name in facts]
    told = [" ".join([_kind(facts), *sizes]), f"{result.metrics[ADAPTER_PARAMETERS]:,.0f} parameters", _file(result)]
    if MERGE_ERROR in result.metrics:
        error = result.metrics[MERGE_ERROR]
        told.append(f"merged to within {error:.0e} of the largest logit" if error else "merged without a difference")
    return ", ".join(told)


def short(result: Result) -> str:
    """Return a description that fits into a column, e.g. `lora r=8, 1.19 MB`; a dash for a run without adapters."""
    if ADAPTER_PARAMETERS not in result.metrics:
        return "-"
    facts = _facts(result)
    rank = [f"r={facts[name]}" for name in ("r", "rank") if name in facts]
    return ", ".join([" ".join([_kind(facts), *rank]), _file(result)])


def _facts(result: Result) -> Mapping[str, Any]:
    """Return the adapters' config from the run's folder; empty where it cannot be read."""
    with suppress(UserError):
        return untrusted.mapping(Path(result.folder) / ADAPTER / "adapter_config.json")
    return {}


def _kind(facts: Mapping[str, Any]) -> str:
    if facts.get("use_dora") is True:
        return "dora"
    return str(facts.get("kind", facts.get("peft_type", "adapter"))).lower()


def _file(result: Result) -> str:
    return size(int(result.metrics.get(ADAPTER_BYTES, 0)))
