"""Losses are those of others: torch's, torchvision's focal loss, timm's binary cross-entropy."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import sigmoid_focal_loss

from frostline.training.criterion import Criterion, Targets

CLASSES = 4
NAMES = ("cross_entropy", "focal", "bce")


@pytest.fixture(scope="module")
def batch() -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(0)
    return torch.randn(40, CLASSES, generator=draw) * 2, torch.randint(0, CLASSES, (40,), generator=draw)


def of(labels: Tensor, smoothing: float = 0.0) -> Targets:
    return Targets(labels, labels, 1.0, smoothing)


def test_a_gamma_of_0_is_the_cross_entropy_smoothed_and_weighted_or_not(batch: tuple[Tensor, Tensor]) -> None:
    logits, labels = batch
    weights = (1.0, 2.0, 0.5, 3.0)
    focal = Criterion("focal", 0.0)
    assert focal(logits, of(labels, 0.1)) == pytest.approx(F.cross_entropy(logits, labels, label_smoothing=0.1))
    for name, smoothing in product(("focal", "cross_entropy"), (0.0, 0.1)):
        found = Criterion(name, 0.0, weights)(logits, of(labels, smoothing))
        theirs = F.cross_entropy(logits, labels, torch.tensor(weights), label_smoothing=smoothing)
        assert found == pytest.approx(theirs)


@pytest.mark.parametrize("gamma", [0.5, 2.0, 5.0])
def test_focal_loss_of_two_classes_is_that_of_their_difference(batch: tuple[Tensor, Tensor], gamma: float) -> None:
    logits, labels = batch[0][:, :2], (batch[1] > 1).long()
    theirs = sigmoid_focal_loss(
        logits[:, 1] - logits[:, 0], labels.float(), alpha=-1, gamma=gamma, reduction="mean"
    ).item()
    assert Criterion("focal", gamma)(logits, of(labels)) == pytest.approx(theirs, rel=1e-5)


def test_binary_cross_entropy_is_that_of_timm(batch: tuple[Tensor, Tensor]) -> None:
    timm = pytest.importorskip("timm.loss")
    logits, labels = batch
    for smoothing in (0.0, 0.1):
        soft = F.one_hot(labels, CLASSES) * (1 - smoothing) + smoothing / CLASSES
        theirs = timm.BinaryCrossEntropy()(logits, soft)
        assert Criterion("bce")(logits, of(labels, smoothing)) == pytest.approx(theirs)


@pytest.mark.parametrize(("name", "smoothing"), [*((name, 0.0) for name in NAMES), ("bce", 0.1)])
def test_a_class_that_weighs_double_is_one_whose_images_come_twice(
    batch: tuple[Tensor, Tensor], name: str, smoothing: float
) -> None:
    logits, labels = batch
    twice = torch.cat([torch.arange(len(labels)), (labels == 2).nonzero()[:, 0]])
    weighted = Criterion(name, class_weights=(1.0, 1.0, 2.0, 1.0))(logits, of(labels, smoothing))
    assert weighted == pytest.approx(Criterion(name)(logits[twice], of(labels[twice], smoothing)))


@pytest.mark.parametrize("name", NAMES)
def test_of_mixed_images_each_part_counts_with_its_share(batch: tuple[Tensor, Tensor], name: str) -> None:
    logits, labels = batch
    partners = labels.roll(1)
    criterion = Criterion(name)
    mixed = criterion(logits, Targets(labels, partners, 0.3, 0.1))
    assert mixed == pytest.approx(0.3 * criterion(logits, of(labels, 0.1)) + 0.7 * criterion(logits, of(partners, 0.1)))


@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_an_image_that_is_surely_right_has_a_finite_gradient(gamma: float) -> None:
    logits = torch.tensor([[200.0, 0.0], [0.0, 200.0]], requires_grad=True)
    Criterion("focal", gamma)(logits, of(torch.tensor([0, 0]))).backward()
    assert logits.grad is not None and logits.grad.isfinite().all() and logits.grad[1].abs().sum() > 0


def test_of_several_classes_of_an_image_each_has_the_binary_loss_of_torch_and_torchvision() -> None:
    draw = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(30, CLASSES, generator=draw), torch.rand(30, CLASSES, generator=draw) < 0.3
    weights = (1.0, 2.0, 0.5, 3.0)
    for name in ("cross_entropy", "bce"):
        plain = F.binary_cross_entropy_with_logits(logits, labels.float())
        assert Criterion(name)(logits, of(labels)) == pytest.approx(plain)
        soft = F.binary_cross_entropy_with_logits(logits, labels * 0.9 + 0.05)
        assert Criterion(name)(logits, of(labels, 0.1)) == pytest.approx(soft)
        weighted = F.binary_cross_entropy_with_logits(logits, labels.float(), pos_weight=torch.tensor(weights))
        assert Criterion(name, class_weights=weights)(logits, of(labels)) == pytest.approx(weighted)
    focal = sigmoid_focal_loss(logits, labels.float(), alpha=-1, gamma=1.5, reduction="mean")
    assert Criterion("focal", 1.5)(logits, of(labels)) == pytest.approx(focal)
    partners = labels.roll(1, 0)
    mixed = Criterion()(logits, Targets(labels, partners, 0.3, 0.0))
    assert mixed == pytest.approx(0.3 * Criterion()(logits, of(labels)) + 0.7 * Criterion()(logits, of(partners)))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("several", [False, True])
def test_an_image_that_counts_double_is_one_that_comes_twice(
    batch: tuple[Tensor, Tensor], name: str, several: bool
) -> None:
    logits, plain = batch
    labels = F.one_hot(plain, CLASSES).bool() if several else plain
    twice = torch.cat([torch.arange(len(plain)), torch.arange(0, len(plain), 3)])
    weights = torch.ones(len(plain))
    weights[::3] = 2
    for criterion in (Criterion(name), Criterion(name, class_weights=(1.0, 3.0, 0.5, 2.0))):
        counted = criterion(logits, Targets(labels, labels, 1.0, 0.1, weights))
        assert counted == pytest.approx(criterion(logits[twice], of(labels[twice], 0.1)))
        assert counted == pytest.approx(criterion(logits, Targets(labels, labels, 1.0, 0.1, weights * 7)))
