"""Losses equal those of torch, torchvision (focal) and timm (binary cross-entropy)."""

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


def target(labels: Tensor, smoothing: float = 0.0) -> Targets:
    return Targets(labels, labels, 1.0, smoothing)


def test_focal_loss_with_gamma_0_is_cross_entropy(batch: tuple[Tensor, Tensor]) -> None:
    logits, labels = batch
    weights = (1.0, 2.0, 0.5, 3.0)
    focal = Criterion("focal", 0.0)
    assert focal(logits, target(labels, 0.1)) == pytest.approx(F.cross_entropy(logits, labels, label_smoothing=0.1))
    for name, smoothing in product(("focal", "cross_entropy"), (0.0, 0.1)):
        found = Criterion(name, 0.0, weights)(logits, target(labels, smoothing))
        theirs = F.cross_entropy(logits, labels, torch.tensor(weights), label_smoothing=smoothing)
        assert found == pytest.approx(theirs)


@pytest.mark.parametrize("gamma", [0.5, 2.0, 5.0])
def test_binary_focal_loss_equals_torchvision(batch: tuple[Tensor, Tensor], gamma: float) -> None:
    logits, labels = batch[0][:, :2], (batch[1] > 1).long()
    theirs = sigmoid_focal_loss(
        logits[:, 1] - logits[:, 0], labels.float(), alpha=-1, gamma=gamma, reduction="mean"
    ).item()
    assert Criterion("focal", gamma)(logits, target(labels)) == pytest.approx(theirs, rel=1e-5)


def test_binary_cross_entropy_equals_timm(batch: tuple[Tensor, Tensor]) -> None:
    timm = pytest.importorskip("timm.loss")
    logits, labels = batch
    for smoothing in (0.0, 0.1):
        soft = F.one_hot(labels, CLASSES) * (1 - smoothing) + smoothing / CLASSES
        theirs = timm.BinaryCrossEntropy()(logits, soft)
        assert Criterion("bce")(logits, target(labels, smoothing)) == pytest.approx(theirs)


@pytest.mark.parametrize(("name", "smoothing"), [*((name, 0.0) for name in NAMES), ("bce", 0.1)])
def test_class_weight_2_equals_doubled_images(batch: tuple[Tensor, Tensor], name: str, smoothing: float) -> None:
    logits, labels = batch
    twice = torch.cat([torch.arange(len(labels)), (labels == 2).nonzero()[:, 0]])
    weighted = Criterion(name, class_weights=(1.0, 1.0, 2.0, 1.0))(logits, target(labels, smoothing))
    assert weighted == pytest.approx(Criterion(name)(logits[twice], target(labels[twice], smoothing)))


@pytest.mark.parametrize("name", NAMES)
def test_loss_of_mixed_images_is_the_weighted_sum(batch: tuple[Tensor, Tensor], name: str) -> None:
    logits, labels = batch
    partners = labels.roll(1)
    criterion = Criterion(name)
    mixed = criterion(logits, Targets(labels, partners, 0.3, 0.1))
    assert mixed == pytest.approx(
        0.3 * criterion(logits, target(labels, 0.1)) + 0.7 * criterion(logits, target(partners, 0.1))
    )


@pytest.mark.parametrize("gamma", [0.5, 2.0])
@pytest.mark.parametrize("labels", [torch.tensor([0, 0]), torch.tensor([[1, 0], [1, 0]]).bool()])
def test_gradient_is_finite_for_certain_predictions(gamma: float, labels: Tensor) -> None:
    logits = torch.tensor([[200.0, -200.0], [-200.0, 200.0]], requires_grad=True)
    Criterion("focal", gamma)(logits, target(labels)).backward()
    assert logits.grad is not None and logits.grad.isfinite().all() and logits.grad[1].abs().sum() > 0


def test_multi_label_losses_equal_torch_and_torchvision() -> None:
    draw = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(30, CLASSES, generator=draw), torch.rand(30, CLASSES, generator=draw) < 0.3
    weights = (1.0, 2.0, 0.5, 3.0)
    for name in ("cross_entropy", "bce"):
        plain = F.binary_cross_entropy_with_logits(logits, labels.float())
        assert Criterion(name)(logits, target(labels)) == pytest.approx(plain)
        soft = F.binary_cross_entropy_with_logits(logits, labels * 0.9 + 0.05)
        assert Criterion(name)(logits, target(labels, 0.1)) == pytest.approx(soft)
        weighted = F.binary_cross_entropy_with_logits(logits, labels.float(), pos_weight=torch.tensor(weights))
        assert Criterion(name, class_weights=weights)(logits, target(labels)) == pytest.approx(weighted)
    focal = sigmoid_focal_loss(logits, labels.float(), alpha=-1, gamma=1.5, reduction="mean")
    assert Criterion("focal", 1.5)(logits, target(labels)) == pytest.approx(focal)
    partners = labels.roll(1, 0)
    mixed = Criterion()(logits, Targets(labels, partners, 0.3, 0.0))
    assert mixed == pytest.approx(
        0.3 * Criterion()(logits, target(labels)) + 0.7 * Criterion()(logits, target(partners))
    )


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("several", [False, True])
def test_image_weight_2_equals_a_doubled_image(batch: tuple[Tensor, Tensor], name: str, several: bool) -> None:
    logits, plain = batch
    labels = F.one_hot(plain, CLASSES).bool() if several else plain
    twice = torch.cat([torch.arange(len(plain)), torch.arange(0, len(plain), 3)])
    weights = torch.ones(len(plain))
    weights[::3] = 2
    for criterion in (Criterion(name), Criterion(name, class_weights=(1.0, 3.0, 0.5, 2.0))):
        counted = criterion(logits, Targets(labels, labels, 1.0, 0.1, weights))
        assert counted == pytest.approx(criterion(logits[twice], target(labels[twice], 0.1)))
        assert counted == pytest.approx(criterion(logits, Targets(labels, labels, 1.0, 0.1, weights * 7)))
