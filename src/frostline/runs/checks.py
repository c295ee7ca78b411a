"""Check a run before anything trains: all images, the network and its weights, and the batch size."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torchvision import datasets

from frostline.core import machine, plugins
from frostline.core.config import EMBEDDED, OWN_FILES, Config
from frostline.core.errors import UserError, user_error
from frostline.data import findings
from frostline.data.findings import Finding
from frostline.models import freezing, shapes, torchvision_models
from frostline.models.build import Model
from frostline.models.freezing import Phase
from frostline.report.terminal import Screen
from frostline.runs.initial_weights import Fetch, no_runs, on_disk, weights_of
from frostline.runs.run_data import load_data, store_of
from frostline.runs.setup import input_of, parts
from frostline.training import optim


@dataclass(frozen=True)
class Checked:
    """The result of checking a run before training."""

    findings: list[Finding]
    """Findings about data and weights to report."""
    auto: dict[str, str]
    """The values of `auto`, by key, that decide the bits of the run; and the sha256 of weights on this disk."""
    unkept: list[str]
    """Parts of the data that the store could not keep."""


def check(config: Config, fetch: Fetch = no_runs) -> Checked:
    """Check a run before anything trains; every image is decoded and inspected.

    Raises the `UserError` that the run would raise before its first step.
    """
    device, how = machine.device(config.device), config.optimizer
    machine.require_kernels(device)
    optim.check_options(how.name, how.options, weight_decay=how.weight_decay, device=device)
    screen = Screen()
    store = store_of(config, screen.say)
    with tempfile.TemporaryDirectory() as folder:
        source = weights_of(config, Path(folder), fetch)
        data, model, phases, batches = parts(config, source, store, meta=True, screen=screen)
    if any(batch.stop - batch.start == 1 for batch in batches):
        _check_batches_of_one(config, model, phases)
    told = [*data.findings, *findings.of_weights(data.classes, model.trained_for, config.model.weights)]
    told += _namesakes(config)
    auto = {**machine.meaning_of_auto(config.device), "data.pixels": data.pixels}
    if model.weights_sha256 is not None and on_disk(config.model.weights):
        auto["model.sha256"] = model.weights_sha256
    return Checked(told, auto, store.unkept)


def _namesakes(config: Config) -> list[Finding]:
    """Return findings about networks and sources of plugins whose names torchvision or frostline use, too."""
    found = []
    model, source = config.model, config.data.source
    package = plugins.distribution(plugins.MODELS, model.name)
    if package is not None and model.library == "torchvision" and model.name in torchvision_models.NAMES:
        found.append(Finding(f"model.name={model.name} is torchvision's: the one of {package} is not used", True))
    package = plugins.distribution(plugins.SOURCES, source)
    if package is not None and source in (*EMBEDDED, *OWN_FILES):
        found.append(Finding(f"data.source={source} is frostline's: the one of {package} is not used", True))
    elif package is not None and source in datasets.__all__:
        found.append(Finding(f"data.source={source} is the one of {package}, not torchvision's", True))
    return found


def _check_batches_of_one(config: Config, model: Model, phases: Sequence[Phase]) -> None:
    """Raise `UserError` if, in a batch of one image, a batch norm that learns sees a single value per channel."""
    module, side = model.module, model.input.size
    for phase in phases:
        freezing.freeze(module, model.structure, phase, norm_stats=config.freeze_mode.norm_stats)
        try:
            shapes.walk(module, 1, side)
        except ValueError as problem:
            expected = f"at least 2, since with one image of {side} pixels a batch norm sees a single value"
            raise user_error("batch_size", config.batch_size, expected) from problem


def fingerprint(config: Config, screen: Screen, fetch: Fetch) -> str | None:
    """Return the fingerprint of the data; None if it cannot be read, which the run itself will report."""
    try:
        with tempfile.TemporaryDirectory() as folder:
            spec = input_of(config, weights_of(config, Path(folder), fetch))
            return load_data(config, spec, store_of(config, screen.say), screen).fingerprint
    except (UserError, OSError):
        return None
