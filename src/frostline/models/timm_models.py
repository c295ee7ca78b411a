"""timm's classifiers as architectures, by name and optional weights tag after a dot.

timm describes the stages of each network (`timm_stages`), and input and file of each set of weights (`timm_weights`).
timm is imported only when one of its networks is named, since the import takes half a second.
"""

from __future__ import annotations

import functools
import sys
from functools import partial
from typing import Any

import timm
from timm.models import get_deprecated_models, get_pretrained_cfg, model_entrypoint
from torch import nn

from frostline.core.errors import first_line, user_error
from frostline.models import shapes
from frostline.models.architecture import Architecture, Tensors, new_layer
from frostline.models.timm_stages import structure_of
from frostline.models.timm_weights import in_folder, input_of, pretrained

_OF_HUB = ("hf-hub:", "hf_hub:", "local-dir:")
"""Prefixes of names that timm resolves itself, on a hub or in a folder."""


def architecture(name: str) -> Architecture:
    """Return timm's architecture `name`, with or without a weights tag after a dot; UserError if there is none."""
    if name.startswith(_OF_HUB):
        expected = "an architecture of timm; choose weights of the hub by its tags, or by model.weights=<folder>"
        raise user_error("model.name", name, expected, [name.rpartition("/")[2]])
    base, _, tag = name.partition(".")
    tags = names().get(base, ())
    if base not in names() or name not in (base, *(f"{base}.{one}" for one in tags)):
        known = [f"{one}.{tag}" for one, its in names().items() for tag in its]
        expected = f"one of timm's {len(names()):,} architectures, with or without one of its tags after a dot"
        if renamed := get_deprecated_models().get(base):
            expected += f"; timm calls it {renamed} now"
        raise user_error("model.name", name, expected, [*names(), *known])
    given = {one: pretrained(f"{base}.{one}") for one in ((tag,) if tag else ()) + tags}
    config = get_pretrained_cfg(name)
    return Architecture(
        network=partial(_network, name),
        family=structure_of,
        input=input_of(config),
        weights={one.lower(): found for one, found in given.items()},
        folder=partial(in_folder, base),
        smallest=config.min_input_size[-1] if config.min_input_size else 1,
        new_heads=_new_heads,
        adapt=partial(_adapt, base),
    )


@functools.cache
def names() -> dict[str, tuple[str, ...]]:
    """Return every architecture of timm with the tags of its weights, the default first."""
    found: dict[str, list[str]] = {name: [] for name in timm.list_models()}
    for name in timm.list_pretrained():
        base, _, tag = name.partition(".")
        found.setdefault(base, []).append(tag)
    return {base: tuple(sorted(tags, key=get_pretrained_cfg(base).tag.__ne__)) for base, tags in found.items()}


def _network(name: str, size: int) -> nn.Module:
    """Return the network for square inputs of `size` pixels; ValueError if it does not support this size."""
    if size == get_pretrained_cfg(name).input_size[-1]:
        return _created(name, size)
    try:
        module = _created(name, size)
        shapes.check(module.eval(), size)
    except (ArithmeticError, AssertionError, IndexError, RuntimeError, TypeError) as problem:
        raise ValueError(first_line(problem)) from problem
    return module.train()


def _created(name: str, size: int) -> nn.Module:
    config = get_pretrained_cfg(name)
    sized = {"img_size": size} if config.fixed_input_size else {}
    classes = config.num_classes or 1000
    module: nn.Module = timm.create_model(name, num_classes=classes, **sized)
    if getattr(module, "dynamic_img_size", False):  # interpolate positions once, not in every forward pass
        module = timm.create_model(name, num_classes=classes, img_size=size, dynamic_img_size=False)
    _compute_positions(module)
    return module


def _compute_positions(module: Any) -> None:
    """Compute ConViT's positions: its first forward pass would, and replace a buffer of layers that may be frozen."""
    for layer in module.modules():
        if hasattr(layer, "get_rel_indices"):
            layer.rel_indices = layer.get_rel_indices(module.patch_embed.num_patches)


def _new_heads(module: Any, heads: tuple[str, ...], num_classes: int) -> None:
    """Replace the heads for `num_classes`: single layers as in all networks, other heads by timm's own method."""
    if isinstance(module.get_submodule(heads[0]), nn.Linear | nn.Conv2d):
        new_layer(module, heads, num_classes)
    else:
        module.reset_classifier(num_classes)


def _adapt(base: str, module: nn.Module, tensors: Tensors) -> Tensors:
    """Return the tensors with timm's current names and shapes, positions interpolated."""
    convert = getattr(sys.modules[model_entrypoint(base).__module__], "checkpoint_filter_fn", None)
    if convert is None:
        return tensors
    try:
        return convert(dict(tensors), module)
    except Exception:  # not a state dict of this network: its names and shapes are refused later
        return tensors
