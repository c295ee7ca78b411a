"""Which pictures of a source are for training, validation and test: stratified and by each picture's id, or by time.

Pictures that are alike byte for byte come to the same split, and those of one group (a patient, a camera): what was
learnt by heart is no test.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from frostline.core.config import DataConfig
from frostline.core.errors import UserError, user_error
from frostline.core.labels import class_counts, multi_label
from frostline.core.randomness import address
from frostline.data.names import some
from frostline.data.source import Source
from frostline.data.stratification import choose, choose_groups, largest_remainder, share_out, stratified
from frostline.data.times import Times


@dataclass(frozen=True)
class Selection:
    """A split before it is decoded: some of the pictures of a source, by index."""

    source: Source
    ids: Tensor
    """`(N,)` int64."""

    @property
    def labels(self) -> Tensor:
        """`(N,)` int64, or multi-label `(N, classes)` bool."""
        return self.source.labels[self.ids]

    @property
    def counts(self) -> Tensor:
        """`(classes,)` int64: of how many pictures each class is."""
        return class_counts(self.labels, len(self.source.classes))


def divide(sources: Mapping[str, Source], config: DataConfig) -> dict[str, Selection]:
    """Return `train`, `val` and `test` of the splits that a source has, `train` at least, which may hold several.

    With `folds` the test split is that `fold` of so many, which together are the whole training split of the source.

    What is missing is taken from train, first test, then val, copies of one picture and whole groups together; then
    `fraction` and `limit` shrink train, and `eval_limit` each of the others. Raises `UserError` where that leaves no
    image for a split, or not one of every class for a split that is shrunk.
    """
    train, seed = sources["train"], config.split_seed
    parts = {name: Selection(source, torch.arange(len(source.labels))) for name, source in sources.items()}
    parts |= {name: Selection(train, ids) for name, ids in (train.splits or {}).items()}
    together = _together(train) if not {"test", "val"} <= set(parts) else None
    if (folds := config.folds) is not None:
        if "test" in parts:
            raise user_error("data.folds", folds, "null, since the data has a test split of its own")
        if train.times is not None:
            expected = f"null, since data.options.time={train.times.column} has the latest pictures for test"
            raise user_error("data.folds", folds, expected)
        parts["test"], parts["train"] = _cut_out(parts["train"], folds, config.fold, seed, together)
    for name, share in (("test", config.test_fraction), ("val", config.val_fraction)):
        if name not in parts and train.times is not None:
            parts[name], parts["train"] = _latest(parts["train"], name, share, train.times, together)
        elif name not in parts:
            parts[name], parts["train"] = _split_off(parts["train"], name, share, seed, together)
    few = {name: _shrink(parts[name], seed, 1.0, config.eval_limit, "data.eval_limit") for name in ("val", "test")}
    return {**parts, **few, "train": _shrink(parts["train"], seed, config.fraction, config.limit, "data.limit")}


def _split_off(
    part: Selection, name: str, fraction: float, seed: int, together: Tensor | None
) -> tuple[Selection, Selection]:
    """Return a stratified `fraction` of the pictures, and the rest, which keeps at least one of every class.

    Pictures that have the same number in `together`, `(N,)` int64, stay together.
    """
    quotas = largest_remainder(part.counts, round(fraction * len(part.ids)), part.counts - 1)
    address_of, group = address(seed, "split", name), _groups(part, together)
    if multi_label(part.labels):
        chosen = share_out(part.labels, part.ids, group, [1 - fraction, fraction], address_of) == 1
    elif int(group.max()) + 1 == len(group):
        chosen = choose(part.labels, part.ids, quotas, address_of)
    else:
        chosen = choose_groups(part.labels, part.ids, quotas, address_of, group)
    if not chosen.any():
        raise _too_few(part, name, fraction, quotas)
    return _parted(part, chosen, name, f"data.{name}_fraction", fraction)


def _latest(
    part: Selection, name: str, fraction: float, times: Times, together: Tensor | None
) -> tuple[Selection, Selection]:
    """Return the latest `fraction` of the pictures, as near as their times allow, and the rest, all of which is older.

    Pictures of one time stay together, and those that have the same number in `together`, `(N,)` int64, which are as
    late as the latest of them: so nothing is learnt from what is as new as what is tested.
    """
    ranks, key = times.ranks[part.ids], f"data.{name}_fraction"
    if together is not None:
        group = _groups(part, together)
        ranks = torch.zeros_like(ranks).scatter_reduce(0, group, ranks, "amax")[group]
    wanted, (moments, counts) = fraction * len(ranks), ranks.unique(return_counts=True)
    if not round(wanted):
        raise user_error(key, fraction, f"a fraction that leaves at least one image for {name}")
    if len(moments) < 2:
        expected = f"a column of several times, also among pictures that are no copies or of one group, for {name}"
        raise user_error("data.options.time", times.column, expected)
    since = counts.flip(0).cumsum(0).flip(0)  # how many there are from each moment on
    start = moments[1:][(since[1:] - wanted).abs().argmin()]
    older = Selection(part.source, part.ids[ranks < start])
    if lost := lost_classes(part, older):
        before = f"before {times.texts[start]}, where {name} begins"
        expected = f"pictures of every class {before}, but none is of {some(lost)}"
        raise user_error("data.options.time", times.column, expected)
    return _parted(part, ranks >= start, name, key, fraction)


def _cut_out(part: Selection, folds: int, fold: int, seed: int, together: Tensor | None) -> tuple[Selection, Selection]:
    """Return the pictures of a fold, and those of the others, which have at least one of every class."""
    if folds > len(part.ids):
        raise user_error("data.folds", folds, f"at most {len(part.ids)}, the number of pictures")
    group = _groups(part, together)
    if int(group.max()) + 1 < folds:
        raise user_error("data.folds", folds, f"at most {int(group.max()) + 1}, the number of groups")
    chosen = share_out(part.labels, part.ids, group, [1] * folds, address(seed, "folds")) == fold
    return _parted(part, chosen, "test", "data.folds", folds)


def _parted(part: Selection, chosen: Tensor, name: str, key: str, value: object) -> tuple[Selection, Selection]:
    """Return what was chosen, and the rest; UserError where a class is not in that."""
    rest = Selection(part.source, part.ids[~chosen])
    if lost := lost_classes(part, rest):
        expected = f"pictures of {some(lost)} for train that are no copies of those of {name}, nor of their groups"
        raise user_error(key, value, expected)
    return Selection(part.source, part.ids[chosen]), rest


def lost_classes(part: Selection, rest: Selection) -> list[str]:
    """Return the names of the classes of which a picture is in `part`, and none in the `rest` of it."""
    lost = (part.counts > 0) & (rest.counts == 0)
    return [name for name, gone in zip(part.source.classes, lost.tolist(), strict=True) if gone]


def _too_few(part: Selection, name: str, fraction: float, quotas: Tensor) -> UserError:
    """Return the error for a split that would get no picture: since too few are asked for, or too few are there."""
    key, of_each = f"data.{name}_fraction", part.counts
    if quotas.any():
        expected = f"pictures that are no copies of each other, nor all of one group, some of them for {name}"
        return user_error(key, fraction, expected)
    if int(of_each.max()) > 1:
        return user_error(key, fraction, f"a fraction that leaves at least one image for {name}")
    singles = [part.source.classes[label] for label in of_each.nonzero()[:, 0].tolist()]
    expected = f"at least two pictures of some class, one of them for {name}, but {some(singles)} have one"
    return user_error(key, fraction, expected)


def _shrink(part: Selection, seed: int, fraction: float, limit: int | None, key: str) -> Selection:
    """Return the images that `fraction` and `limit`, the value of a `key`, leave, at least one of every class."""
    classes = int((part.counts > 0).sum())
    if limit is not None and limit < classes:
        raise user_error(key, limit, f"at least {classes}, one image per class")
    limit = limit if limit is not None else len(part.ids)  # of which multi-label there may be fewer than classes
    wanted = min(limit, max(classes, round(fraction * len(part.ids))))
    return Selection(part.source, part.ids[stratified(part.labels, part.ids, wanted, seed)])


def _groups(part: Selection, together: Tensor | None) -> Tensor:
    """Return `(N,)` int64: the number of each picture's group, from 0; a picture alone is a group, too."""
    return torch.arange(len(part.ids)) if together is None else together[part.ids].unique(return_inverse=True)[1]


def _together(source: Source) -> Tensor | None:
    """Return `(N,)` int64: the same number for pictures that are to be in one split, as twins or of one group."""
    twins = source.twins() if source.twins is not None else None
    if twins is None or source.groups is None:
        return source.groups if twins is None else twins
    from scipy.sparse import coo_array  # a quarter of a second, for groups alone
    from scipy.sparse.csgraph import connected_components

    pictures, groups = torch.arange(len(twins)), len(twins) + source.groups
    edges = torch.stack([torch.cat([pictures, pictures]), torch.cat([twins, groups])]).numpy()
    size = int(groups.max()) + 1
    _, found = connected_components(coo_array(([True] * edges.shape[1], edges), (size, size)), directed=False)
    return torch.from_numpy(found[: len(twins)]).long()
