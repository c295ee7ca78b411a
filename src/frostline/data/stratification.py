"""Stratified sampling: choose some images, or divide all into parts, with the class proportions preserved.

The order depends only on a seed and each image's id. Groups stay whole. For multi-label images, each class and the
images without a class are spread proportionally; images of rare classes are placed first (K. Sechidis et al. 2011,
doi:10.1007/978-3-642-23808-6_10).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from frostline.core.labels import class_counts, multi_label, strata_of
from frostline.core.randomness import derive_seed, uniform


def stratified(labels: Tensor, ids: Tensor, count: int, seed: int) -> Tensor:
    """Return `(N,)` bool: a choice of `count` images, proportional to the classes, at least one of each.

    There must be at most `count` classes. A smaller choice is a subset of a larger one with the same `ids`. For that,
    multi-label images are not stratified: one image of each class is chosen, and all others are drawn at random.
    """
    draw = derive_seed(seed, "subset")
    if multi_label(labels):
        return _cover(labels, ids, count, draw)
    of_each = labels.bincount()
    least = of_each.clamp(max=1)
    quotas = least + largest_remainder(of_each - least, count - int(least.sum()), of_each - least)
    return choose(labels, ids, quotas, draw)


def _cover(labels: Tensor, ids: Tensor, count: int, seed: int) -> Tensor:
    """Return `(N,)` bool: one image of each class, then others, `count` in all, in an order that `seed` and ids decide.

    `labels` is `(N, classes)` bool.
    """
    order = uniform(seed, ids, 1)[:, 0].argsort(stable=True)
    shown = labels[order]
    first: list[int] = []
    for label in labels.sum(0).argsort(stable=True).tolist():
        rows = shown[:, label].nonzero()[:, 0]
        if len(rows) and not shown[first, label].any():
            first.append(int(rows[0]))
    others = torch.ones(len(order), dtype=torch.bool)
    others[first] = False
    chosen = torch.zeros(len(order), dtype=torch.bool)
    chosen[torch.cat([order[first], order[others]])[:count]] = True
    return chosen


def choose(labels: Tensor, ids: Tensor, quotas: Tensor, seed: int) -> Tensor:
    """Return `(N,)` bool: the first `quotas` images of each class, in an order that only `seed` and ids decide."""
    order = uniform(seed, ids, 1)[:, 0].argsort(stable=True)
    order = order[labels[order].argsort(stable=True)]
    counts = labels.bincount()
    rank = torch.arange(len(order)) - (counts.cumsum(0) - counts)[labels[order]]
    chosen = torch.empty(len(order), dtype=torch.bool)
    chosen[order] = rank < quotas[labels[order]]
    return chosen


def largest_remainder(counts: Tensor, total: int, most: Tensor) -> Tensor:
    """Return how many of each class to take, `total` in proportion to `counts`, rounded by largest remainder.

    No class gives more than `most`; the difference is not taken from other classes.
    """
    share = counts * (total / max(1, int(counts.sum())))
    quotas = share.floor()
    rest = (share - quotas).argsort(descending=True, stable=True)[: total - int(quotas.sum())]
    quotas[rest] += 1
    return quotas.long().minimum(most.clamp(min=0))


def choose_groups(labels: Tensor, ids: Tensor, quotas: Tensor, seed: int, group: Tensor) -> Tensor:
    """Return `(N,)` bool like `choose`, but of whole groups: those that bring the classes nearer to their quotas.

    Groups are tried in an order that `seed` and the id of each group's first image decide. A class with a quota whose
    groups are all too large gives its smallest one. At least one image of every class is left.
    """
    order = _in_order(labels, ids, group, seed).tolist()
    members = _counts_by_class(group, labels)
    short, left = quotas.tolist(), labels.bincount(minlength=len(quotas)).tolist()
    chosen = torch.zeros(len(order), dtype=torch.bool)

    def spared(number: int) -> bool:
        return all(left[label] > count for label, count in members[number])

    def take(number: int) -> None:
        chosen[number] = True
        for label, count in members[number]:
            short[label] -= count
            left[label] -= count

    for number in order:
        gain = sum(abs(short[label]) - abs(short[label] - count) for label, count in members[number])
        if gain > 0 and spared(number):
            take(number)
    for label, quota in enumerate(quotas.tolist()):
        if quota > 0 and short[label] == quota:  # nothing of it was taken
            own = [number for number in order if label in dict(members[number]) and spared(number)]
            if own:
                take(min(own, key=lambda number: sum(count for _, count in members[number])))
    return chosen[group]


def share_out(labels: Tensor, ids: Tensor, group: Tensor, shares: Sequence[float], seed: int) -> Tensor:
    """Return `(N,)` int64: the part of each image, stratified, with whole groups, `group` `(N,)`, in the same part.

    `shares` are the relative sizes of the parts. Groups are placed by size, the largest first; equal sizes in an order
    that `seed` and the id of the first image decide, multi-label ones by rarest stratum first. Each goes to the part
    with the fewest images of its classes, on a tie to the smallest part. A group with all images of a class goes to the
    first part.
    """
    strata = strata_of(labels)
    sizes, order = group.bincount(), _in_order(strata, ids, group, seed)
    order = order[sizes[order].argsort(stable=True, descending=True)]
    members, total = _counts_by_class(group, strata), class_counts(strata, 0).tolist()
    taken = [[0] * len(total) for _ in shares]
    filled, found = [0] * len(shares), torch.empty(len(sizes), dtype=torch.int64)
    for number in order.tolist():
        costs = [
            (sum(count * own[label] / total[label] for label, count in members[number]) / share, size / share, where)
            for where, (own, size, share) in enumerate(zip(taken, filled, shares, strict=True))
        ]
        where = 0 if any(count == total[label] for label, count in members[number]) else min(costs)[2]
        found[number] = where
        filled[where] += int(sizes[number])
        for label, count in members[number]:
            taken[where][label] += count
    return found[group]


def _in_order(strata: Tensor, ids: Tensor, group: Tensor, seed: int) -> Tensor:
    """Return the numbers of the groups in an order that `seed` and the id of each group's first image decide.

    Multi-label groups with a rarer rarest stratum come first.
    """
    first = torch.full_like(group.bincount(), len(group)).scatter_reduce(0, group, torch.arange(len(group)), "amin")
    order = uniform(seed, ids[first], 1)[:, 0].argsort(stable=True)
    if not multi_label(strata):
        return order
    rarest = torch.where(strata, strata.sum(0), len(strata)).amin(1)
    of_group = torch.full_like(first, len(strata)).scatter_reduce(0, group, rarest, "amin")
    return order[of_group[order].argsort(stable=True)]


def _counts_by_class(group: Tensor, strata: Tensor) -> list[list[tuple[int, int]]]:
    """Return for each group pairs `(stratum, number of images)`."""
    if multi_label(strata):
        (rows, of), classes = strata.nonzero().unbind(1), strata.shape[1]
    else:
        rows, of, classes = torch.arange(len(strata)), strata, int(strata.max()) + 1
    pairs, images = (group[rows] * classes + of).unique(return_counts=True)
    found: list[list[tuple[int, int]]] = [[] for _ in range(int(group.max()) + 1)]
    for pair, count in zip(pairs.tolist(), images.tolist(), strict=True):
        found[pair // classes].append((pair % classes, count))
    return found
