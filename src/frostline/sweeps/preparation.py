"""All that a sweep would look for before it trains, put where its runs find it: here and now, and nothing is run."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from frostline.core.config import Config, ModelConfig
from frostline.sweeps import hydra_keys, job, preflight, unused_keys
from frostline.sweeps.compose import Overrides, PlannedRun, compose_grid, to_check


@dataclass(frozen=True)
class Found:
    """Something that runs read, where it lies now."""

    what: str
    """For people."""
    made: bool
    """Whether it was made or fetched now, and not there before."""
    size: int
    """Bytes."""
    place: Path


def planned(overrides: Overrides) -> list[PlannedRun]:
    """Return the runs that `overrides` ask for, of a search one for each cell; says which keys none reads.

    UserError for what none can be.
    """
    runs = compose_grid(overrides, searched=True)
    for line in unused_keys.check(hydra_keys.typed_values(overrides), [run.config for run in runs]):
        job.screen().say(line, "yellow")
    return runs


def prepare(runs: Sequence[PlannedRun], unkept: list[str]) -> Iterator[Found]:
    """Yield what the runs will read: weights, then what the store keeps of their data.

    Weights are fetched, and every picture is looked at and decoded, as a sweep does it before its first run, but for
    what depends on the device: this need not be the machine that trains. UserError for whatever a sweep refuses;
    `unkept` gets what of the data the store could not keep.
    """
    configs = {kind: replace(config, device="cpu", devices=1) for kind, config in to_check(runs).items()}
    yield from _weights({repr(config.model): config.model for config in configs.values()})
    yield from _data(configs, unkept)


def _weights(models: Mapping[str, ModelConfig]) -> Iterator[Found]:
    """Yield the files of weights; those of runs, or in files of the person's own, are looked into with the data."""
    from frostline.models import lookup
    from frostline.runs import initial_weights

    for model in models.values():
        source, began = model.weights, time.time()
        if source in (None, "glyphs") or initial_weights.on_disk(source):
            continue
        found = lookup.weights_file(model.name, library=model.library, weights=source, sha256=model.sha256)
        assert found is not None
        path, _ = found
        state = path.stat()
        what = f"weights {source} of {model.name} ({model.library})"
        yield Found(what, state.st_ctime >= began, state.st_size, path)


def _data(configs: Mapping[str, Config], unkept: list[str]) -> Iterator[Found]:
    """Yield what the store has of the data of these configs, once all are looked at."""
    from frostline.runs import run_data  # imports torch

    stores = {repr(config.store): run_data.store_of(config, job.screen().say) for config in configs.values()}
    before = {item.place: item.used for store in stores.values() for item in store.items()}
    preflight.check(configs, unkept)
    for item in (item for store in stores.values() for item in store.items()):
        if before.get(item.place) != item.used:
            yield Found(f"{item.kind}: {item.about}", item.place not in before, item.size, item.place)
