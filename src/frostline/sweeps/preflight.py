"""Checks of a sweep's runs before one of them trains, for a process with torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from frostline.core.config import Config, ModelConfig
from frostline.core.errors import UserError
from frostline.report import terminal
from frostline.sweeps import find_weights


def check(
    configs: Mapping[str, Config], *, runs_elsewhere: bool = False
) -> tuple[dict[str, dict[str, str]], list[str]]:
    """Check data and weights of the configs, and print each finding once.

    Returns the values of `auto`, by kind of run, then by key of the config; and the data that the store could not keep.
    Raises the `UserError` of the first config that cannot run. At last the weights of libraries are downloaded, except
    for a dry run; with `runs_elsewhere` a failure is only a note, since the machines of the runs may have them.
    """
    from frostline.runs import checks  # imports torch

    told: set[str] = set()
    auto: dict[str, dict[str, str]] = {}
    unkept: list[str] = []
    for kind, config in configs.items():
        checked = checks.check(config, find_weights.weights)
        auto[kind] = checked.auto
        unkept += checked.unkept
        for finding in checked.findings:
            if finding.about not in told:
                terminal.say(f"  note: {finding.about}", "yellow" if finding.alarming else "")
                told.add(finding.about)
    for model in {repr(one.model): one.model for one in configs.values() if not one.dry_run}.values():
        _fetch(model, runs_elsewhere=runs_elsewhere)
    return auto, unkept


def _fetch(model: ModelConfig, *, runs_elsewhere: bool) -> None:
    from frostline.runs import initial_weights

    try:
        initial_weights.of_library(model)
    except UserError as error:
        if not runs_elsewhere:
            raise
        terminal.say(f"  note: not here, but perhaps where the runs are: {error}", "yellow")


def fingerprints(configs: Sequence[Config]) -> list[str | None]:
    """Return the fingerprint of each config's data, None for unreadable data."""
    from frostline.runs import checks

    found: dict[str, str | None] = {}
    for config in configs:
        if repr(config.data) not in found:
            found[repr(config.data)] = checks.fingerprint(config, terminal.screen(), find_weights.weights)
    return [found[repr(config.data)] for config in configs]
