"""What is asked about a sweep's runs before one of them trains, where torch is loaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from frostline.core.config import Config
from frostline.sweeps import find_weights, job


def check(configs: Mapping[str, Config], unkept: list[str] | None = None) -> dict[str, dict[str, str]]:
    """Say once what all their runs should know of their data; raises the `UserError` of the first that cannot run.

    Returns what `auto` means to each, by its key and the key of the config; `unkept` gets what of their data the store
    could not keep.
    """
    from frostline.runs import checks  # imports torch

    told: set[str] = set()
    auto: dict[str, dict[str, str]] = {}
    for kind, config in configs.items():
        checked = checks.check(config, find_weights.weights)
        auto[kind] = checked.auto
        if unkept is not None:
            unkept += checked.unkept
        for finding in checked.findings:
            if finding.about not in told:
                job.screen().say(f"  note: {finding.about}", "yellow" if finding.alarming else "")
                told.add(finding.about)
    return auto


def fingerprints(configs: Sequence[Config]) -> list[str | None]:
    """Return the fingerprint of each config's data, None where they cannot be read."""
    from frostline.runs import checks

    found: dict[str, str | None] = {}
    for config in configs:
        if repr(config.data) not in found:
            found[repr(config.data)] = checks.fingerprint(config, job.screen(), find_weights.weights)
    return [found[repr(config.data)] for config in configs]
