"""Open a data source of a plugin, and check the splits that it returns."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from frostline.core.errors import user_error
from frostline.data.names import some
from frostline.data.source import Source


def splits(name: str, plugin: Any, root: Path, options: Mapping[str, Any]) -> dict[str, Source]:
    """Return the splits that `plugin` opens, a function from `root` and `data.options` to sources by split.

    Raises `UserError` if it does not take these options, or does not return such sources.
    """
    try:
        inspect.signature(plugin).bind(root=root, **options)
    except TypeError as error:
        expected = f"arguments that the function of the plugin {name} takes beside root ({error})"
        raise user_error("data.options", dict(options), expected) from None
    found = plugin(root=root, **options)
    sources = isinstance(found, Mapping) and all(isinstance(one, Source) for one in found.values())
    if not sources or not {"train"} <= set(found) <= {"train", "val", "test"}:
        given = some(list(found)) if sources and found else "nothing" if sources else type(found).__name__
        expected = f"a plugin that returns a Source for train, and for val and test if it has them, not {given}"
        raise user_error("data.source", name, expected)
    for split, source in found.items():
        if (lacking := _lacking(source, found["train"].classes)) is not None:
            raise user_error("data.source", name, f"a plugin whose {split} has {lacking}")
    return {split: replace(source, read=_checked(source.read)) for split, source in found.items()}


def _checked(read: Callable[[int], Any]) -> Callable[[int], Image.Image]:
    """Return `read` with an error in plain words for what is no image of Pillow."""

    def opened(index: int) -> Image.Image:
        if not isinstance(image := read(index), Image.Image):
            raise TypeError(f"an image of Pillow is expected from read, not {type(image).__name__}")
        return image

    return opened


def _lacking(source: Source, classes: object) -> str | None:
    """Return in words what a plugin's source lacks, given the `classes` of train; None if nothing is missing."""
    named = isinstance(classes, tuple) and all(isinstance(one, str) for one in classes)
    if not named or source.classes != classes or not 1 < len({*classes}) == len(classes):
        return "the classes of train, a tuple of two or more names that differ"
    labels: object = source.labels
    if not isinstance(labels, Tensor) or not len(labels):
        return "labels, a tensor of at least one"
    groups: object = source.groups
    if groups is not None and not (isinstance(groups, Tensor) and groups.shape == (len(labels),)):
        return "groups, a tensor of a number per image"
    if labels.ndim == 2 and labels.dtype == torch.bool and labels.shape[1] == len(source.classes):
        return None
    numbers = labels.ndim == 1 and labels.dtype == torch.int64
    if not numbers or int(labels.min()) < 0 or int(labels.max()) >= len(source.classes):
        found = f"{str(labels.dtype).removeprefix('torch.')} of shape {tuple(labels.shape)}"
        found += f" from {int(labels.min())} to {int(labels.max())}" if numbers else ""
        return f"labels, (N,) int64 from 0 to {len(source.classes) - 1} or (N, {len(source.classes)}) bool, not {found}"
    return None
