"""Split a source into train, validation and test: stratified by a hash of each image's id, or by time.

Identical files, and images of one group (a patient, a camera), go to the same split: the test must not contain images
that the network has memorised.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from frostline.core.config import DataConfig
from frostline.core.errors import UserError, user_error
from frostline.core.labels import class_counts, multi_label
from frostline.core.randomness import derive_seed
from frostline.data import belonging
from frostline.data.names import counted, some
from frostline.data.source import Source
from frostline.data.stratification import choose, choose_groups, largest_remainder, share_out, stratified
from frostline.data.times import Times


@dataclass(frozen=True)
class Selection:
    """A split before decoding: indices of images in a source."""

    source: Source
    ids: Tensor
    """`(N,)` int64."""

    @property
    def labels(self) -> Tensor:
        """`(N,)` int64, or multi-label `(N, classes)` bool."""
        return self.source.labels[self.ids]

    @property
    def counts(self) -> Tensor:
        """`(classes,)` int64: number of images of each class."""
        return class_counts(self.labels, len(self.source.classes))

    def name(self, row: int) -> str:
        """Return the name of the image in a row, for people."""
        return self.source.name(int(self.ids[row]))


def divide(sources: Mapping[str, Source], config: DataConfig) -> dict[str, Selection]:
    """Return `train`, `val` and `test` from a data source's splits, at least `train`, whose source may hold several.

    With `folds`, the source's training split is divided into folds, and the test split is the one with index `fold`.

    Missing splits are taken from train, first test, then val; copies of an image and whole groups stay together. Then
    `fraction`, `limit` or `shots` shrink train, and `eval_limit` each of the others. Raises `UserError` if a split gets
    no image, or a shrunk split cannot have one of every class.
    """
    train, seed = sources["train"], config.split_seed
    parts = {name: Selection(source, torch.arange(len(source.labels))) for name, source in sources.items()}
    parts |= {name: Selection(train, ids) for name, ids in (train.splits or {}).items()}
    together = belonging.together(train) if not {"test", "val"} <= set(parts) else None
    if (folds := config.folds) is not None:
        if "test" in parts:
            raise user_error("data.folds", folds, "null, since the data has its own test split")
        if train.times is not None:
            expected = f"null, since data.options.time={train.times.column} takes the latest images for test"
            raise user_error("data.folds", folds, expected)
        parts["test"], parts["train"] = _cut_out(parts["train"], folds, config.fold, seed, together)
    for name, share in (("test", config.test_fraction), ("val", config.val_fraction)):
        if name not in parts and train.times is not None:
            parts[name], parts["train"] = _latest(parts["train"], name, share, train.times, together)
        elif name not in parts:
            parts[name], parts["train"] = _split_off(parts["train"], name, share, seed, together)
    few = {name: _shrink(parts[name], seed, 1.0, config.eval_limit, "data.eval_limit") for name in ("val", "test")}
    drawn = seed if config.subset_seed is None else config.subset_seed
    if config.shots is not None:
        return {**parts, **few, "train": _of_each_class(parts["train"], drawn, config.shots)}
    return {**parts, **few, "train": _shrink(parts["train"], drawn, config.fraction, config.limit, "data.limit")}


def _split_off(
    part: Selection, name: str, fraction: float, seed: int, together: Tensor | None
) -> tuple[Selection, Selection]:
    """Return a stratified `fraction` of the images, and the rest, which keeps at least one of every class.

    Images with the same number in `together`, `(N,)` int64, stay together.
    """
    quotas = largest_remainder(part.counts, round(fraction * len(part.ids)), part.counts - 1)
    own_seed, group = derive_seed(seed, "split", name), _groups(part, together)
    if multi_label(part.labels):
        chosen = share_out(part.labels, part.ids, group, [1 - fraction, fraction], own_seed) == 1
    elif int(group.max()) + 1 == len(group):
        chosen = choose(part.labels, part.ids, quotas, own_seed)
    else:
        chosen = choose_groups(part.labels, part.ids, quotas, own_seed, group)
    if not chosen.any():
        raise _too_few(part, name, fraction, quotas, groups=int(group.max()) + 1)
    return _parted(part, chosen, name, f"data.{name}_fraction", fraction)


def _latest(
    part: Selection, name: str, fraction: float, times: Times, together: Tensor | None
) -> tuple[Selection, Selection]:
    """Return the latest `fraction` of the images, as near as their times allow, and the rest, all of which is older.

    Images of the same time stay together. So do those with the same number in `together`, `(N,)` int64, which all count
    as late as the latest of them: no training image is as new as a test image.
    """
    ranks, key = times.ranks[part.ids], f"data.{name}_fraction"
    if together is not None:
        group = _groups(part, together)
        ranks = torch.zeros_like(ranks).scatter_reduce(0, group, ranks, "amax")[group]
    wanted, (moments, counts) = fraction * len(ranks), ranks.unique(return_counts=True)
    if not round(wanted):
        raise user_error(key, fraction, f"a fraction that leaves at least one image for {name}")
    if len(moments) < 2:
        expected = f"a column of several times for {name}; copies of an image, and a group, count as one time"
        raise user_error("data.options.time", times.column, expected)
    since = counts.flip(0).cumsum(0).flip(0)  # number of images from each moment on
    start = moments[1:][(since[1:] - wanted).abs().argmin()]
    older = Selection(part.source, part.ids[ranks < start])
    if lost := lost_classes(part, older):
        before = f"before {times.texts[start]}, where {name} begins"
        expected = f"images of every class {before}, but none of {some(lost)}"
        raise user_error("data.options.time", times.column, expected)
    return _parted(part, ranks >= start, name, key, fraction)


def _cut_out(part: Selection, folds: int, fold: int, seed: int, together: Tensor | None) -> tuple[Selection, Selection]:
    """Return the images of a fold, and those of the others, which have at least one of every class."""
    if folds > len(part.ids):
        raise user_error("data.folds", folds, f"at most {len(part.ids)}, the number of images")
    group = _groups(part, together)
    if int(group.max()) + 1 < folds:
        raise user_error("data.folds", folds, f"at most {int(group.max()) + 1}, the number of groups")
    chosen = share_out(part.labels, part.ids, group, [1] * folds, derive_seed(seed, "folds")) == fold
    return _parted(part, chosen, "test", "data.folds", folds)


def _parted(part: Selection, chosen: Tensor, name: str, key: str, value: object) -> tuple[Selection, Selection]:
    """Return the chosen images, and the rest; UserError if the rest lacks a class."""
    rest = Selection(part.source, part.ids[~chosen])
    if lost := lost_classes(part, rest):
        expected = f"images of {some(lost)} for train that are no copies of those of {name}, nor of their groups"
        raise user_error(key, value, expected)
    return Selection(part.source, part.ids[chosen]), rest


def lost_classes(part: Selection, rest: Selection) -> list[str]:
    """Return the names of the classes that have images in `part` but none in its `rest`."""
    lost = (part.counts > 0) & (rest.counts == 0)
    return [name for name, gone in zip(part.source.classes, lost.tolist(), strict=True) if gone]


def _too_few(part: Selection, name: str, fraction: float, quotas: Tensor, groups: int) -> UserError:
    """Return the error for a split that gets no image, because of the fraction or because there are too few images."""
    key, of_each = f"data.{name}_fraction", part.counts
    if quotas.any():
        expected = f"images that are no copies of each other, nor all of one group, some of them for {name}"
        if part.source.groups is not None:
            left = counted(groups, "group is", "groups are")
            expected += f"; {left} left for train and {name}: take smaller groups, or name the splits yourself"
        return user_error(key, fraction, expected)
    if int(of_each.max()) > 1:
        return user_error(key, fraction, f"a fraction that leaves at least one image for {name}")
    singles = [part.source.classes[label] for label in of_each.nonzero()[:, 0].tolist()]
    expected = f"at least two images of some class, one of them for {name}, but {some(singles)} have one"
    return user_error(key, fraction, expected)


def _shrink(part: Selection, seed: int, fraction: float, limit: int | None, key: str) -> Selection:
    """Return the images that `fraction` and `limit` (of `key`) leave, stratified, at least one of every class."""
    classes = int((part.counts > 0).sum())
    if limit is not None and limit < classes:
        raise user_error(key, limit, f"at least {classes}, one image per class")
    limit = limit if limit is not None else len(part.ids)  # may be fewer than classes if multi-label
    wanted = min(limit, max(classes, round(fraction * len(part.ids))))
    return Selection(part.source, part.ids[stratified(part.labels, part.ids, wanted, seed)])


def _of_each_class(part: Selection, seed: int, shots: int) -> Selection:
    """Return `shots` images of each class, or all of a class that has fewer; more shots only add images."""
    if multi_label(part.labels):
        raise user_error("data.shots", shots, "null, since images have several classes; data.limit takes some of them")
    quotas = torch.full_like(part.counts, shots)
    return Selection(part.source, part.ids[choose(part.labels, part.ids, quotas, derive_seed(seed, "subset"))])


def _groups(part: Selection, together: Tensor | None) -> Tensor:
    """Return `(N,)` int64: the number of each image's group, from 0; an image without a group is one of its own."""
    return torch.arange(len(part.ids)) if together is None else together[part.ids].unique(return_inverse=True)[1]
