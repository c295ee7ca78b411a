"""Reuse the network of a run for the next one: if only the head learned, all else is unchanged, bit for bit.

Building a network and tracing it for the cut takes longer than training a head on cached features. A process keeps one
network until the next run. A run of the same network takes it, with its own initial weights in the head; any other run
drops it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from frostline.core.config import Config
from frostline.models import build, lookup
from frostline.models.build import Model

if TYPE_CHECKING:
    from frostline.runs.setup import Setup
    from frostline.training.state import Learner

_kept: tuple[tuple[Any, ...], Model] | None = None
"""The key and the network of the previous run."""


def keep(setup: Setup, learner: Learner) -> None:
    """Keep the network of a successful run for the next one, if only a new linear head could change."""
    global _kept
    model = setup.model
    own = {f"{model.structure.heads[0]}.{name}" for name in ("weight", "bias")}
    alone = model.linear_head is not None and learner.mutable <= own
    if alone and model.new_head and setup.ranks is None:
        _kept = _key(setup.config, setup.weights, setup.data.classes), model


def take(config: Config, source: str | None, classes: Sequence[str]) -> Model | None:
    """Drop the kept network, and return it as `build` would for these arguments; None if it is another one."""
    global _kept
    (key, model), _kept = _kept or (None, None), None
    if model is None or key != _key(config, source, classes):
        return None
    file = lookup.weights_file(config.model.name, library=config.model.library, weights=source)
    if file is None or file[1] != model.weights_sha256:
        return None
    head = model.module.get_submodule(model.structure.heads[0])
    fresh = build.new_head(model, len(classes), config.seed)
    with torch.no_grad():
        for name, parameter in head.named_parameters():
            parameter.copy_(fresh.get_parameter(name))
            parameter.grad = None
    return model


def _key(config: Config, source: str | None, classes: Sequence[str]) -> tuple[Any, ...]:
    """Return everything that decides a network, except the weights of a new head."""
    return repr(config.model), repr(config.freeze_mode), source, (*classes,), config.channels_last, config.device
