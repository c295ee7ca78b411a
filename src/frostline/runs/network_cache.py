"""The network of a run for the next one: where a head alone learned, all else is as it was, bit for bit.

To build a network anew and to trace where it can be cut takes longer than to train a head on features that are there.
A process keeps one, until it is given to the next run of the same network, which gives the head that run's own weights;
any other run lets it go.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch

from frostline.core.config import Config
from frostline.models import build, lookup
from frostline.models.build import Model
from frostline.runs.setup import Setup
from frostline.training.state import Learner


class NetworkCache:
    """Owner of the network of the run before, while no run has it."""

    def __init__(self) -> None:
        self._key: tuple[Any, ...] | None = None
        self._model: Model | None = None

    def keep(self, setup: Setup, learner: Learner) -> None:
        """Keep the network of a run that ended well, if nothing but the new weights of a linear head moved in it."""
        model, config = setup.model, setup.config
        own = {f"{model.structure.heads[0]}.{name}" for name in ("weight", "bias")}
        alone = model.linear_head is not None and learner.moving <= own
        if alone and model.new_head and model.weights_sha256 and setup.ranks is None:
            self._key, self._model = _key(config, setup.weights, setup.data.classes), model

    def take(self, config: Config, source: str | None, classes: Sequence[str]) -> Model | None:
        """Return the network as `build` makes it of the same, if it is the one that was kept; nothing is kept then."""
        key, model, self._key, self._model = self._key, self._model, None, None
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
    """Return what decides all of a network but the weights of a new head."""
    return repr(config.model), repr(config.freeze_mode), source, (*classes,), config.channels_last, config.device


@functools.cache
def of_process() -> NetworkCache:
    """Return what this process keeps."""
    return NetworkCache()
