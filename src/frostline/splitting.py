"""Which pictures of a source are for training, validation and test: stratified, and by each picture's id alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from frostline.config import user_error
from frostline.randomness import address, uniform
from frostline.sources import Source


@dataclass(frozen=True)
class Part:
    """A split before it is decoded: some of the pictures of a source, by index."""

    source: Source
    ids: Tensor
    """`(N,)` int64."""

    @property
    def labels(self) -> Tensor:
        """`(N,)` int64."""
        return self.source.labels[self.ids]


def divide(
    sources: Mapping[str, Source],
    *,
    val_fraction: float,
    test_fraction: float,
    seed: int,
    fraction: float,
    limit: int | None,
) -> dict[str, Part]:
    """Return `train`, `val` and `test` of the splits that a source has, `train` at least.

    What is missing is taken from train, first test, then val; then `fraction` and `limit` shrink train. Raises
    `UserError` where that leaves no image for a split, or not one of every class for train.
    """
    parts = {name: Part(source, torch.arange(len(source.labels))) for name, source in sources.items()}
    for name, share in (("test", test_fraction), ("val", val_fraction)):
        if name not in parts:
            parts[name], parts["train"] = _split_off(parts["train"], name, share, seed)
    return {**parts, "train": _shrink(parts["train"], seed, fraction, limit)}


def _split_off(part: Part, name: str, fraction: float, seed: int) -> tuple[Part, Part]:
    """Return a stratified `fraction` of the pictures, and the rest, which keeps at least one of every class."""
    counts = part.labels.bincount()
    chosen = _choose(part, _quotas(counts, round(fraction * len(part.ids)), counts - 1), address(seed, "split", name))
    if not chosen.any():
        raise user_error(f"data.{name}_fraction", fraction, f"a fraction that leaves at least one image for {name}")
    return Part(part.source, part.ids[chosen]), Part(part.source, part.ids[~chosen])


def _shrink(part: Part, seed: int, fraction: float, limit: int | None) -> Part:
    """Return the training images that `fraction` and `limit` leave, at least one of every class."""
    counts = part.labels.bincount()
    classes = int((counts > 0).sum())
    limit = limit if limit is not None else len(part.ids)
    if limit < classes:
        raise user_error("data.limit", limit, f"at least {classes}, one training image per class")
    wanted = min(limit, max(classes, round(fraction * len(part.ids))))
    least = counts.clamp(max=1)
    quotas = least + _quotas(counts - least, wanted - classes, counts - least)
    chosen = _choose(part, quotas, address(seed, "subset"))
    return Part(part.source, part.ids[chosen])


def _quotas(counts: Tensor, total: int, most: Tensor) -> Tensor:
    """Return how many of each class to take so that `total` are shared as `counts` are, rounded by largest remainder.

    No class gives more than `most`; what it cannot give is not taken elsewhere.
    """
    share = counts * (total / max(1, int(counts.sum())))
    quotas = share.floor()
    rest = (share - quotas).argsort(descending=True, stable=True)[: total - int(quotas.sum())]
    quotas[rest] += 1
    return quotas.long().minimum(most.clamp(min=0))


def _choose(part: Part, quotas: Tensor, seed: int) -> Tensor:
    """Return `(N,)` bool: the first images of each class in an order that hangs on `seed` and each image's id alone."""
    order = uniform(seed, part.ids, 1)[:, 0].argsort(stable=True)
    order = order[part.labels[order].argsort(stable=True)]
    counts = part.labels.bincount()
    rank = torch.arange(len(order)) - (counts.cumsum(0) - counts)[part.labels[order]]
    chosen = torch.empty(len(order), dtype=torch.bool)
    chosen[order] = rank < quotas[part.labels[order]]
    return chosen
