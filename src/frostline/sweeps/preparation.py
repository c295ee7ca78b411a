"""Prepare a sweep without running it: fetch its weights, and check and decode its data into the store."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from frostline.core.config import Config, ModelConfig
from frostline.report import terminal
from frostline.sweeps import hydra_overrides, preflight, unused_keys
from frostline.sweeps.compose import PlannedRun, compose_grid, to_check
from frostline.sweeps.hydra_overrides import Overrides


@dataclass(frozen=True)
class Prepared:
    """A file or store entry that runs read."""

    what: str
    """A description for the user."""
    made: bool
    """Whether it was made or fetched now."""
    size: int
    """Bytes."""
    place: Path | None
    """None for data that the store could not keep."""


def planned(overrides: Overrides) -> list[PlannedRun]:
    """Return the runs of `overrides`, for a search one per cell, and print which keys no run reads.

    UserError for settings that no run can have.
    """
    runs = compose_grid(overrides)
    for line in unused_keys.check(hydra_overrides.typed_values(overrides), [run.config for run in runs]):
        terminal.say(line, "yellow")
    return runs


def prepare(runs: Sequence[PlannedRun]) -> Iterator[Prepared]:
    """Yield the files that the runs will read: weights, then entries of the store with their data.

    Downloads weights, and checks and decodes every image, as a sweep does before its first run, except for what
    depends on the device, since another machine may train. UserError for whatever a sweep refuses.
    """
    configs = {kind: replace(config, device="cpu", devices=1) for kind, config in to_check(runs).items()}
    yield from _weights({repr(config.model): config.model for config in configs.values()})
    yield from _data(configs)


def _weights(models: Mapping[str, ModelConfig]) -> Iterator[Prepared]:
    """Yield files of downloaded weights; weights from runs or from the user's files are checked with the data."""
    from frostline.runs import initial_weights

    for model in models.values():
        began = time.time()
        if (path := initial_weights.of_library(model)) is not None:
            state = path.stat()
            what = f"weights {model.weights} of {model.name} ({model.library})"
            yield Prepared(what, state.st_ctime >= began, state.st_size, path)


def _data(configs: Mapping[str, Config]) -> Iterator[Prepared]:
    """Check the data of these configs, and yield the store's entries that were made or used for it."""
    from frostline.runs import run_data  # imports torch

    stores = {repr(config.store): run_data.store_of(config, terminal.say) for config in configs.values()}
    before = {item.place: item.used for store in stores.values() for item in store.items()}
    _, unkept = preflight.check(configs)
    for item in (item for store in stores.values() for item in store.items()):
        if before.get(item.place) != item.used:
            yield Prepared(f"{item.kind}: {item.about}", item.place not in before, item.size, item.place)
    yield from (Prepared(what, made=False, size=0, place=None) for what in unkept)
