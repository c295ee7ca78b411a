"""Labelled images in memory: any source, decoded once, split into train, validation and test."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict, Unpack

import torch
from torch import Tensor

from frostline.config import user_error
from frostline.pixels import stack
from frostline.randomness import address, uniform
from frostline.sources import Source, open_splits


class Request(TypedDict):
    """Which images, and how they are split: the fields of `DataConfig` of the same names."""

    source: str
    root: str
    download: bool
    splits: Mapping[str, Mapping[str, Any]]
    val_fraction: float
    test_fraction: float
    split_seed: int
    fraction: float
    limit: int | None
    decode_size: int | None
    options: Mapping[str, Any]


@dataclass(frozen=True)
class Split:
    """Images of one purpose, row by row."""

    pixels: Tensor
    """`(N, 3, H, W)` uint8, contiguous, on the CPU."""
    sizes: Tensor
    """`(N, 2)` int32: width and height of the original picture."""
    labels: Tensor
    """`(N,)` int64."""
    ids: Tensor
    """`(N,)` int64: index within the split of the source; addresses the image's randomness."""

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Data:
    """What a run learns from, is selected on, and is tested on."""

    train: Split
    val: Split
    test: Split
    classes: tuple[str, ...]
    fingerprint: str
    """sha256 (hex) over the pixels, sizes, labels and ids of all splits and the class names."""


@dataclass(frozen=True)
class _Part:
    """A split before it is decoded: some of the pictures of a source, by index."""

    source: Source
    ids: Tensor

    @property
    def labels(self) -> Tensor:
        return self.source.labels[self.ids]


_last: dict[str, Data] = {}


def load(**request: Unpack[Request]) -> Data:
    """Return the decoded splits.

    A split that the source lacks is taken from its training split, stratified: first test, then val. `fraction` and
    `limit` then shrink train, and what is left out is not decoded. The last result is kept, since the runs of a sweep
    ask for the same images again and again. Raises `UserError` where images are missing or cannot be split so.
    """
    key = json.dumps({**request, "root": str(_root(request))}, sort_keys=True)
    if key not in _last:
        _last.clear()  # before loading: two data sets may not fit into memory at once
        _last[key] = _assemble(_divide(request), request)
    return _last[key]


def check(**request: Unpack[Request]) -> None:
    """Raise the `UserError` that `load` would raise before it decodes anything; download here where that is asked."""
    _divide(request)


def _root(request: Request) -> Path:
    return Path(request["root"]).expanduser().absolute()


def _divide(request: Request) -> dict[str, _Part]:
    found = open_splits(
        source=request["source"],
        root=_root(request),
        download=request["download"],
        splits=request["splits"],
        options=request["options"],
    )
    parts = {name: _Part(source, torch.arange(len(source.labels))) for name, source in found.items()}
    for name, fraction in (("test", request["test_fraction"]), ("val", request["val_fraction"])):
        if name not in parts:
            parts[name], parts["train"] = _split_off(parts["train"], name, fraction, request["split_seed"])
    return {**parts, "train": _shrink(parts["train"], request)}


def _split_off(part: _Part, name: str, fraction: float, seed: int) -> tuple[_Part, _Part]:
    """Return a stratified `fraction` of the pictures, and the rest, which keeps at least one of every class."""
    counts = part.labels.bincount()
    chosen = _choose(part, _quotas(counts, round(fraction * len(part.ids)), counts - 1), address(seed, "split", name))
    if not chosen.any():
        raise user_error(f"data.{name}_fraction", fraction, f"a fraction that leaves at least one image for {name}")
    return _Part(part.source, part.ids[chosen]), _Part(part.source, part.ids[~chosen])


def _shrink(part: _Part, request: Request) -> _Part:
    """Return the training images that `fraction` and `limit` leave, at least one of every class."""
    counts = part.labels.bincount()
    classes = int((counts > 0).sum())
    limit = request["limit"] if request["limit"] is not None else len(part.ids)
    if limit < classes:
        raise user_error("data.limit", limit, f"at least {classes}, one training image per class")
    wanted = min(limit, max(classes, round(request["fraction"] * len(part.ids))))
    least = counts.clamp(max=1)
    quotas = least + _quotas(counts - least, wanted - classes, counts - least)
    chosen = _choose(part, quotas, address(request["split_seed"], "subset"))
    return _Part(part.source, part.ids[chosen])


def _quotas(counts: Tensor, total: int, most: Tensor) -> Tensor:
    """Return how many of each class to take so that `total` are shared as `counts` are, rounded by largest remainder.

    No class gives more than `most`; what it cannot give is not taken elsewhere.
    """
    share = counts * (total / max(1, int(counts.sum())))
    quotas = share.floor()
    rest = (share - quotas).argsort(descending=True, stable=True)[: total - int(quotas.sum())]
    quotas[rest] += 1
    return quotas.long().minimum(most.clamp(min=0))


def _choose(part: _Part, quotas: Tensor, seed: int) -> Tensor:
    """Return `(N,)` bool: the first images of each class in an order that hangs on `seed` and each image's id alone."""
    order = uniform(seed, part.ids, 1)[:, 0].argsort(stable=True)
    order = order[part.labels[order].argsort(stable=True)]
    counts = part.labels.bincount()
    rank = torch.arange(len(order)) - (counts.cumsum(0) - counts)[part.labels[order]]
    chosen = torch.empty(len(order), dtype=torch.bool)
    chosen[order] = rank < quotas[part.labels[order]]
    return chosen


def _assemble(parts: Mapping[str, _Part], request: Request) -> Data:
    try:
        train, val, test = (_decode(parts[name], request["decode_size"]) for name in ("train", "val", "test"))
    except OSError as error:
        raise user_error("data.root", request["root"], f"pictures that can all be read, but {error}") from error
    if len({split.pixels.shape[1:] for split in (train, val, test)}) > 1:
        raise user_error("data.decode_size", "null", "a side in pixels, since the splits differ in the size of images")
    classes = parts["train"].source.classes
    return Data(train, val, test, classes, _fingerprint((train, val, test), classes))


def _decode(part: _Part, size: int | None) -> Split:
    indices = part.ids.tolist()
    pixels, sizes = stack(len(indices), lambda row: part.source.read(indices[row]), size)
    return Split(pixels, sizes, part.labels, part.ids)


def _fingerprint(splits: tuple[Split, ...], classes: tuple[str, ...]) -> str:
    digest = hashlib.sha256(json.dumps(classes).encode())
    for tensor in (tensor for s in splits for tensor in (s.pixels, s.sizes, s.labels, s.ids)):
        digest.update(f"{tuple(tensor.shape)}".encode())
        digest.update(tensor.numpy().data)
    return digest.hexdigest()
