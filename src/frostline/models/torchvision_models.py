"""torchvision's classifiers as architectures: names, weights, expected input, and construction for an input size."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from typing import Any

import torchvision
from torch import nn
from torchvision.models import VisionTransformer, WeightsEnum, get_model, get_model_weights, list_models
from torchvision.models.vision_transformer import interpolate_embeddings

from frostline.core.input_spec import InputSpec
from frostline.models.architecture import Architecture, Pretrained, Tensors
from frostline.models.stages import structure_of
from frostline.models.weights import fetch

NAMES = tuple(list_models(module=torchvision.models))
"""torchvision's classification models, in alphabetical order."""

_HALF = (0.5, 0.5, 0.5)
_RENORMALISED = ("googlenet", "inception_v3")
"""Networks ported from TensorFlow, which expect mean and std of 0.5. torchvision gives them ImageNet's normalisation
and converts it inside (`transform_input`); we switch that off and normalise as they expect."""

_SIZED: dict[str, Callable[[int], dict[str, Any]]] = {
    "vit_": lambda size: {"image_size": size},
    "maxvit_": lambda size: {"input_size": (size, size)},
}
"""Networks that are built for one input size, with the argument that sets it."""


def architecture(name: str) -> Architecture:
    """Return the architecture called `name`, one of `NAMES`.

    Weights without categories are left out: they lack values for VGG's hidden layers.
    """
    entries = get_model_weights(name)
    whole = {key.lower(): entry for key, entry in entries.__members__.items() if entry.meta["categories"]}
    default = entries.DEFAULT
    return Architecture(
        network=partial(_network, name),
        family=lambda module, side: structure_of(module),
        input=_input(name, default),
        weights={key: Pretrained(partial(fetch, entry.url), _input(name, entry)) for key, entry in whole.items()},
        smallest=1 if name.startswith(tuple(_SIZED)) else default.meta["min_size"][0],
        adapt=_adapt,
    )


def _input(name: str, entry: WeightsEnum) -> InputSpec:
    view = entry.transforms()
    mean, std = (_HALF, _HALF) if name in _RENORMALISED else (tuple(view.mean), tuple(view.std))
    return InputSpec(view.crop_size[0], view.resize_size[0], mean, std, view.interpolation.value)


def _network(name: str, size: int) -> nn.Module:
    """Return the network for square inputs of `size` pixels, without auxiliary heads."""
    module: nn.Module = get_model(name, weights=None, **_arguments(name, size))
    return module


def _arguments(name: str, size: int) -> dict[str, Any]:
    if name in _RENORMALISED:
        return {"aux_logits": False, "transform_input": False, "init_weights": True}
    for prefix, arguments in _SIZED.items():
        if name.startswith(prefix):
            return arguments(size)
    return {}


def _adapt(module: nn.Module, tensors: Tensors) -> Tensors:
    """Return the tensors with a vision transformer's position embeddings interpolated to the network's size."""
    if not isinstance(module, VisionTransformer) or "encoder.pos_embedding" not in tensors:
        return tensors
    try:
        return interpolate_embeddings(module.image_size, module.patch_size, OrderedDict(tensors))
    except (ValueError, RuntimeError):  # no square grid, or no floating point numbers: refused later for their shape
        return tensors
