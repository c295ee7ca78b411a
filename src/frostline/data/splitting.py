"""Which pictures of a source are for training, validation and test: stratified, and by each picture's id alone.

Pictures that are alike byte for byte come to the same split: what was learnt by heart is no test.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from frostline.core.errors import UserError, user_error
from frostline.core.randomness import address, uniform
from frostline.data.names import some
from frostline.data.sources import Source


@dataclass(frozen=True)
class Selection:
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
) -> dict[str, Selection]:
    """Return `train`, `val` and `test` of the splits that a source has, `train` at least.

    What is missing is taken from train, first test, then val, copies of one picture together; then `fraction` and
    `limit` shrink train. Raises `UserError` where that leaves no image for a split, or not one of every class for
    train.
    """
    parts = {name: Selection(source, torch.arange(len(source.labels))) for name, source in sources.items()}
    train = sources["train"]
    twins = train.twins() if train.twins is not None and not {"test", "val"} <= set(sources) else None
    for name, share in (("test", test_fraction), ("val", val_fraction)):
        if name not in parts:
            parts[name], parts["train"] = _split_off(parts["train"], name, share, seed, twins)
    return {**parts, "train": _shrink(parts["train"], seed, fraction, limit)}


def _split_off(
    part: Selection, name: str, fraction: float, seed: int, twins: Tensor | None
) -> tuple[Selection, Selection]:
    """Return a stratified `fraction` of the pictures, and the rest, which keeps at least one of every class.

    Pictures that are `twins`, `(N,)` int64, have the same number there and stay together.
    """
    counts = part.labels.bincount()
    quotas = _quotas(counts, round(fraction * len(part.ids)), counts - 1)
    address_of = address(seed, "split", name)
    alone = twins is None or len(twins[part.ids].unique()) == len(part.ids)
    chosen = (
        _choose(part, quotas, address_of) if alone or twins is None else _choose_groups(part, quotas, address_of, twins)
    )
    if not chosen.any():
        raise _too_few(part, name, fraction, quotas)
    rest = Selection(part.source, part.ids[~chosen])
    if lost := sorted(set(part.labels.tolist()) - set(rest.labels.tolist())):
        names = ", ".join(part.source.classes[label] for label in lost[:5])
        raise user_error(
            f"data.{name}_fraction", fraction, f"pictures of {names} for train that are no copies of those of {name}"
        )
    return Selection(part.source, part.ids[chosen]), rest


def _too_few(part: Selection, name: str, fraction: float, quotas: Tensor) -> UserError:
    """Return the error for a split that would get no picture: since too few are asked for, or too few are there."""
    key, counts = f"data.{name}_fraction", part.labels.bincount()
    if quotas.any():
        return user_error(key, fraction, f"pictures that are no copies of each other, some of them for {name}")
    if int(counts.max()) > 1:
        return user_error(key, fraction, f"a fraction that leaves at least one image for {name}")
    singles = [part.source.classes[label] for label in counts.nonzero()[:, 0].tolist()]
    return user_error(
        key, fraction, f"at least two pictures of some class, one of them for {name}, but {some(singles)} have one"
    )


def _shrink(part: Selection, seed: int, fraction: float, limit: int | None) -> Selection:
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
    return Selection(part.source, part.ids[chosen])


def _quotas(counts: Tensor, total: int, most: Tensor) -> Tensor:
    """Return how many of each class to take so that `total` are shared as `counts` are, rounded by largest remainder.

    No class gives more than `most`; what it cannot give is not taken elsewhere.
    """
    share = counts * (total / max(1, int(counts.sum())))
    quotas = share.floor()
    rest = (share - quotas).argsort(descending=True, stable=True)[: total - int(quotas.sum())]
    quotas[rest] += 1
    return quotas.long().minimum(most.clamp(min=0))


def _choose(part: Selection, quotas: Tensor, seed: int) -> Tensor:
    """Return `(N,)` bool: the first images of each class in an order that hangs on `seed` and each image's id alone."""
    order = uniform(seed, part.ids, 1)[:, 0].argsort(stable=True)
    order = order[part.labels[order].argsort(stable=True)]
    counts = part.labels.bincount()
    rank = torch.arange(len(order)) - (counts.cumsum(0) - counts)[part.labels[order]]
    chosen = torch.empty(len(order), dtype=torch.bool)
    chosen[order] = rank < quotas[part.labels[order]]
    return chosen


def _choose_groups(part: Selection, quotas: Tensor, seed: int, twins: Tensor) -> Tensor:
    """Return `(N,)` bool like `_choose`, but whole groups of twins: those that bring each class nearest to its quota.

    A group counts for the class of its first picture. One group of every class is not chosen.
    """
    _, group = twins[part.ids].unique(return_inverse=True)
    sizes = group.bincount()
    first = torch.full_like(sizes, len(part.ids)).scatter_reduce(0, group, torch.arange(len(group)), "amin")
    labels = part.labels[first]
    order = uniform(seed, part.ids[first], 1)[:, 0].argsort(stable=True).tolist()
    taken, left = torch.zeros_like(quotas).tolist(), labels.bincount(minlength=len(quotas)).tolist()
    chosen = torch.zeros(len(sizes), dtype=torch.bool)
    for number, label, size in zip(order, labels[order].tolist(), sizes[order].tolist(), strict=True):
        short = int(quotas[label]) - taken[label]
        if left[label] > 1 and short > 0 and (size < 2 * short or taken[label] == 0):
            chosen[number] = True
            taken[label] += size
            left[label] -= 1
    return chosen[group]
