"""Stages and heads of timm's networks, derived from timm's `group_matcher`, `feature_info` and `get_classifier`."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

from timm.models._manipulate import group_with_matcher
from torch import nn

from frostline.core.errors import UserError, user_error
from frostline.models import stages
from frostline.models.stages import Structure
from frostline.models.state_dicts import within

_FEW = 4  # stages of a network with a single resolution, such as a vision transformer


def structure_of(module: nn.Module, side: int) -> Structure:
    """Return the stages and heads of a network for images of `side` pixels; UserError if it does not declare them."""
    heads = _heads(module)
    tensors = [name for name, _ in chain(module.named_parameters(), module.named_buffers())]
    body = [name for name in tensors if not within(name, heads)]
    groups = _groups(module, body)
    ends = _ends(module, groups)
    levels = {name: 1 + bisect_left(ends, group) if group else 0 for name, group in groups.items()}
    top = dict.fromkeys((name for name in tensors if name not in levels), len(ends) + 1)
    return stages.of_levels(module, levels | top, heads, side=side)


def _heads(module: Any) -> tuple[str, ...]:
    """Return the paths of the layers that compute logits; several if the network has heads for distillation."""
    found = module.get_classifier() if hasattr(module, "get_classifier") else ()
    every = [*(found if isinstance(found, tuple | list) else (found,)), getattr(module, "aux_head", None)]
    paths = tuple(_layer(path, layer) for path, layer in module.named_modules() if any(layer is one for one in every))
    if not paths or not all(any(True for _ in module.get_submodule(path).parameters()) for path in paths):
        raise _lacks(module, "a head that learns (`get_classifier`)")
    return paths


def _layer(path: str, head: nn.Module) -> str:
    """Return the path of a head's only layer with parameters if that is linear, else the path of the head."""
    owners = {name.rpartition(".")[0] for name, _ in chain(head.named_parameters(), head.named_buffers())}
    alone = len(owners) == 1 and isinstance(head.get_submodule(next(iter(owners))), nn.Linear | nn.Conv2d)
    return ".".join(filter(None, (path, *owners))) if alone else path


def _lacks(module: nn.Module, what: str) -> UserError:
    return user_error("model.name", type(module).__name__, f"a network of timm that has {what}")


def _groups(module: Any, names: Sequence[str]) -> dict[str, int]:
    """Return the group of every tensor, numbered from below as in timm, 0 for the stem.

    A tensor that timm assigns to no group comes after all groups (norms, poolings) or, if its module is defined before
    theirs, belongs to the stem (positions that all blocks share).
    """
    found, last = _numbered(module, names)
    order = {name: place for place, (name, _) in enumerate(module.named_children())}
    inner = [order.get(name.partition(".")[0], -1) for name, group in found.items() if 0 < group < last]
    first = min(inner, default=len(order))

    def settled(name: str, group: int) -> int:
        return 0 if group == last and order.get(name.partition(".")[0], -1) < first else group

    return {name: settled(name, group) for name, group in found.items()}


def _ends(module: nn.Module, groups: Mapping[str, int]) -> list[int]:
    """Return the last group of every stage: a stage per resolution, or quarters of the groups if there is only one."""
    units = sorted({group for group in groups.values() if group > 0})
    ends: dict[int, int] = {}
    for place in _places(module):
        inside = [group for name, group in groups.items() if name.startswith(f"{place['module']}.")]
        if inside and max(inside) > 0:
            ends[place["reduction"]] = max(inside)
    if len({*ends.values()}) > 1:  # branches of several resolutions may end together
        found = sorted({*ends.values()})
    elif len(units) <= _FEW:
        found = units
    else:
        found = [units[(part + 1) * len(units) // _FEW - 1] for part in range(_FEW)]
    return [*found[:-1], units[-1]] if units else []


def _places(module: nn.Module) -> Sequence[dict[str, Any]]:
    """Return timm's `feature_info`: modules from which features are taken, and their reduction of the image size."""
    places = getattr(module, "feature_info", None)
    return getattr(places, "info", places) or ()


def _numbered(module: Any, names: Sequence[str]) -> tuple[dict[str, int], int]:
    """Return the group of every tensor, and the number for tensors in none: by `group_matcher`, else `feature_info`."""
    if hasattr(module, "group_matcher"):
        nowhere = "\0"
        every = [(name, None) for name in (*names, nowhere)]
        found: dict[str, int] = group_with_matcher(every, _matcher(module), reverse=True)
        return found, found.pop(nowhere)
    places = [place["module"] for place in _places(module)]
    if len(places) < 2:
        raise _lacks(module, "its layers in groups (`group_matcher` or `feature_info`)")
    last = len(places) + 1
    inside = {name: [n for n, place in enumerate(places, 1) if name.startswith(f"{place}.")] for name in names}
    return {name: max(numbers, default=last) for name, numbers in inside.items()}, last


def _matcher(module: Any) -> Mapping[str, Any]:
    """Return the patterns of timm's groups: coarse ones, or layer by layer for RDNet, which has no others."""
    try:
        return module.group_matcher(coarse=True)
    except AssertionError:
        return module.group_matcher(coarse=False)
