"""Folds: each image is tested once, folds are stratified, groups stay whole."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.model_selection import StratifiedKFold

from frostline.core.config import DataConfig
from frostline.core.errors import UserError
from frostline.data import splitting, stratification
from frostline.data.source import Source
from numbered import disjoint
from small import data_config

FOLDS = 5


def source(labels: list[int], groups: list[int] | None = None) -> Source:
    names = tuple(map(str, range(max(labels) + 1)))
    grouped = None if groups is None else torch.tensor(groups)
    return Source(torch.tensor(labels), names, lambda _: Image.new("RGB", (1, 1)), str, groups=grouped)


def config(**how: Any) -> DataConfig:
    return data_config(source="folder", val_fraction=0.2, test_fraction=0.2, **how)


def divided(found: Source, fold: int, folds: int = FOLDS, seed: int = 0) -> dict[str, splitting.Selection]:
    return splitting.divide({"train": found}, config(split_seed=seed, folds=folds, fold=fold))


def test_folds_test_each_image_once() -> None:
    found = source([number % 3 for number in range(101)])
    parts = [divided(found, fold) for fold in range(FOLDS)]
    tested = torch.cat([part["test"].ids for part in parts])
    assert torch.equal(tested.sort().values, torch.arange(101))
    for part in parts:
        whole = torch.cat([part[name].ids for name in ("train", "val", "test")])
        assert torch.equal(whole.sort().values, torch.arange(101))
    assert torch.equal(divided(found, 2)["test"].ids, parts[2]["test"].ids)
    assert not torch.equal(divided(found, 2, seed=1)["test"].ids, parts[2]["test"].ids)


def test_folds_are_stratified_like_scikit_learns() -> None:
    draw = np.random.default_rng(0)
    labels = draw.choice(4, 173, p=[0.6, 0.25, 0.1, 0.05])
    theirs = StratifiedKFold(FOLDS, shuffle=True, random_state=0).split(np.zeros(len(labels)), labels)
    expected = sorted(tuple(np.bincount(labels[test], minlength=4)) for _, test in theirs)
    parts = [divided(source(labels.tolist()), fold)["test"] for fold in range(FOLDS)]
    ours = sorted(tuple(part.labels.bincount(minlength=4).tolist()) for part in parts)
    for found, other in zip(ours, expected, strict=True):
        assert max(abs(a - b) for a, b in zip(found, other, strict=True)) <= 1
    sizes = [len(part.ids) for part in parts]
    assert max(sizes) - min(sizes) <= 2


@pytest.mark.parametrize("seed", range(4))
def test_large_groups_are_placed_before_small_ones(seed: int) -> None:
    group = torch.tensor([0] * 6 + [*range(1, 7)])
    parts = stratification.share_out(torch.zeros_like(group), torch.arange(12), group, [1, 1], seed)
    assert parts.bincount().tolist() == [6, 6]


def test_smallest_group_is_chosen_if_all_exceed_the_quota() -> None:
    labels, group = torch.zeros(30, dtype=torch.int64), torch.tensor([0] * 10 + [1] * 8 + [2] * 12)
    chosen = stratification.choose_groups(labels, torch.arange(30), torch.tensor([3]), 0, group)
    assert torch.equal(chosen, group == 1)


def test_groups_stay_whole_in_stratified_folds() -> None:
    draw = np.random.default_rng(0)
    groups = draw.integers(0, 80, 800)
    labels = np.where(groups % 5 == 0, 1, draw.integers(0, 3, 800))
    found = source(labels.tolist(), groups.tolist())
    assert found.groups is not None
    seen: list[set[int]] = []
    for fold in range(FOLDS):
        parts = divided(found, fold)
        groups_by_split = [set(found.groups[parts[name].ids].tolist()) for name in ("train", "val", "test")]
        assert disjoint(*groups_by_split)
        seen.append(groups_by_split[2])
        share = parts["test"].labels.bincount(minlength=3) / found.labels.bincount()
        assert ((share - 1 / FOLDS).abs() < 0.06).all(), share
    assert len(set.union(*seen)) == sum(map(len, seen)) == len(set(groups.tolist()))


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (source([0, 1]), "data.folds=5: expected at most 2, the number of images"),
        (source([0, 1] * 6, [0, 1, 2] * 4), "data.folds=5: expected at most 3, the number of groups"),
        (source([0] * 9 + [1]), "data.folds=5: expected images of 1 for train that are no copies of those of test"),
    ],
)
def test_impossible_folds_are_refused(found: Source, message: str) -> None:
    with pytest.raises(UserError) as caught:
        for fold in range(FOLDS):
            divided(found, fold)
    assert str(caught.value).startswith(message)


def test_folds_with_an_own_test_split_are_refused() -> None:
    found = source([0, 1] * 10)
    with pytest.raises(UserError, match=r"^data.folds=2: expected null, since the data has its own test split"):
        splitting.divide({"train": found, "test": found}, config(folds=2))
