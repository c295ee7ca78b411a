"""Mixup and CutMix."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from scipy.stats import beta, ks_2samp, kstest
from torch import Tensor
from torchvision.transforms import v2

from frostline.training.mixup import mix

NUMBERS = torch.arange(1, 7).float().reshape(-1, 1, 1, 1).expand(-1, 3, 16, 12).contiguous()
"""Six images of one value each, so that a pixel identifies its image."""
LABELS = torch.arange(10, 16)


def mixed(step: int = 0, *, seed: int = 0, mixup: float = 0.0, cutmix: float = 0.0) -> tuple[Tensor, Tensor, float]:
    return mix(NUMBERS.clone(), LABELS, mixup=mixup, cutmix=cutmix, seed=seed, step=step)


def test_without_mixing_nothing_changes() -> None:
    inputs, partners, share = mix(NUMBERS, LABELS, mixup=0.0, cutmix=0.0, seed=0, step=0)
    assert inputs is NUMBERS
    assert partners is LABELS
    assert share == 1.0


@pytest.mark.parametrize("step", range(20))
def test_mixup_is_the_weighted_mean(step: int) -> None:
    inputs, partners, share = mixed(step, mixup=0.4)
    assert 0 <= share <= 1
    partner_of = dict(zip(LABELS.tolist(), NUMBERS, strict=True))
    for own, found, label in zip(NUMBERS, inputs, partners.tolist(), strict=True):
        assert torch.allclose(found, share * own + (1 - share) * partner_of[label], atol=1e-5)


@pytest.mark.parametrize("step", range(20))
def test_cutmix_replaces_one_box_of_the_right_area(step: int) -> None:
    inputs, partners, share = mixed(step, cutmix=1.0)
    partner_of = dict(zip(LABELS.tolist(), NUMBERS, strict=True))
    boxes = []
    for own, found, label in zip(NUMBERS, inputs, partners.tolist(), strict=True):
        kept, taken = found == own, found == partner_of[label]
        assert torch.equal(kept, ~taken)
        assert kept.float().mean().item() == pytest.approx(share)
        boxes.append(taken)
        rows, columns = taken[0].any(1), taken[0].any(0)
        assert torch.equal(taken[0], rows[:, None] & columns[None])
        for line in (rows, columns):
            assert (line.int().diff() != 0).sum() <= 2  # contiguous
    assert all(torch.equal(box, boxes[0]) for box in boxes)


@pytest.mark.slow
def test_cutmix_boxes_follow_torchvisions_distribution() -> None:
    pair = torch.tensor([0.0, 1.0]).view(2, 1, 1, 1).expand(2, 1, 112, 224).contiguous()
    theirs, found, expected = v2.CutMix(num_classes=2, alpha=1.0), list[list[float]](), list[list[float]]()
    torch.manual_seed(0)
    for step in range(1000):
        inputs, _, share = mix(pair, LABELS[:2], mixup=0.0, cutmix=1.0, seed=1, step=step)
        y, x = (inputs[0, 0] == 1).nonzero().unbind(1)
        if len(y):
            found.append([share, *(float(edge) for edge in (x.min(), y.min(), x.max() + 1, y.max() + 1))])
        drawn = theirs.make_params([pair])
        expected.append([drawn["lam_adjusted"], *drawn["box"]])
    for mine, other in zip(zip(*found, strict=True), zip(*expected, strict=True), strict=True):
        assert ks_2samp(mine, other).statistic < 0.1  # by chance, once in 10,000 times


def test_multi_labels_are_mixed_as_a_whole() -> None:
    labels = torch.eye(4, dtype=torch.bool)
    assert torch.equal(mix(torch.rand(4, 3), labels, mixup=1.0, cutmix=0.0, seed=0, step=0)[1], labels.roll(1, 0))


def test_partners_are_a_permutation_without_fixed_points() -> None:
    for options in ({"mixup": 1.0}, {"cutmix": 1.0}):
        _, partners, _ = mixed(**options)
        assert (partners != LABELS).all()
        assert sorted(partners.tolist()) == LABELS.tolist()


@pytest.mark.parametrize("alpha", [0.2, 1.0, 8.0])
def test_shares_follow_a_symmetric_beta_distribution(alpha: float) -> None:
    shares = [mixed(step, mixup=alpha)[2] for step in range(500)]
    assert kstest(shares, beta(alpha, alpha).cdf).pvalue > 0.01


def test_each_batch_uses_either_mixup_or_cutmix() -> None:
    blended = [bool((mixed(step, mixup=1.0, cutmix=1.0)[0] % 1).any()) for step in range(200)]
    assert 70 < sum(blended) < 130


@pytest.mark.parametrize("options", [{"mixup": 0.3}, {"cutmix": 1.0}, {"mixup": 0.3, "cutmix": 1.0}])
def test_draws_depend_only_on_seed_and_step(options: dict[str, Any]) -> None:
    torch.manual_seed(1)
    first = mixed(7, seed=3, **options)
    torch.manual_seed(2)
    again = mixed(7, seed=3, **options)
    assert torch.equal(first[0], again[0])
    assert first[2] == again[2]
    assert first[2] != mixed(8, seed=3, **options)[2]
    assert first[2] != mixed(7, seed=4, **options)[2]


def test_inputs_are_not_modified() -> None:
    before = NUMBERS.clone()
    for options in ({"mixup": 1.0}, {"cutmix": 1.0}):
        mix(NUMBERS, LABELS, seed=0, step=1, **{"mixup": 0.0, "cutmix": 0.0, **options})
    assert torch.equal(before, NUMBERS)


def test_channels_last_is_preserved() -> None:
    images = torch.randn(4, 3, 8, 8).contiguous(memory_format=torch.channels_last)
    for options in ({"mixup": 1.0, "cutmix": 0.0}, {"mixup": 0.0, "cutmix": 1.0}):
        inputs, _, _ = mix(images, LABELS[:4], seed=0, step=0, **options)
        assert inputs.is_contiguous(memory_format=torch.channels_last)
