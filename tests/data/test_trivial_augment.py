"""TrivialAugment on a batch agrees with torchvision, with one operation and strength per image."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode, autoaugment

from frostline.core.randomness import uniform
from frostline.data.trivial_augment import MOVES, OPERATIONS, STRENGTHS, Kernel, trivial_augment

SIDE = 48
NAMES = {"autocontrast": "AutoContrast"}
SPACE = autoaugment.TrivialAugmentWide()._augmentation_space(STRENGTHS)


def images(batch: int) -> Tensor:
    """Return smooth coloured images in whole levels, each with another contrast."""
    random = torch.Generator().manual_seed(0)
    coarse = torch.rand(batch, 3, 6, 6, generator=random) * torch.linspace(80, 250, batch)[:, None, None, None]
    return torch.nn.functional.interpolate(coarse, (SIDE, SIDE), mode="bilinear").round()


def draws(operation: str, strength: int, sign: int) -> Tensor:
    """Return the `(1, 3)` draws that lead to this operation, strength 0..30 and sign -1 or 1."""
    number = OPERATIONS.index(operation)
    return torch.tensor([[(number + 0.5) / len(OPERATIONS), (strength + 0.5) / STRENGTHS, 0.5 + 0.25 * sign]])


def reference(batch: Tensor, operation: str, strength: int, sign: int) -> Tensor:
    name = NAMES.get(operation, operation.title().replace("_", ""))
    magnitudes, signed = SPACE[name]
    magnitude = float(magnitudes[strength]) if magnitudes.ndim else 0.0
    if name.startswith("Translate"):
        magnitude = round(magnitude, 4)  # torchvision cuts float32's 15.999999 to 15 pixels
    nearest = InterpolationMode.NEAREST
    return autoaugment._apply_op(batch.byte(), name, sign * magnitude if signed else magnitude, nearest, None).float()


@pytest.mark.parametrize("operation", OPERATIONS)
def test_operations_agree_with_torchvision(operation: str) -> None:
    for strength in range(0, STRENGTHS, 3):
        for sign in (-1, 1):
            ours = trivial_augment(images(2), draws(operation, strength, sign).expand(2, 3))
            difference = (ours - reference(images(2), operation, strength, sign)).abs()
            # Blends may differ by one level (torchvision cuts 149.99999 to 149), shears at sources between two pixels.
            assert (difference > 1).float().mean() < 0.01, (operation, strength, sign)
            assert operation.startswith("shear") or difference.max() <= 1, (operation, strength, sign)


def test_operation_space_is_torchvisions() -> None:
    assert [NAMES.get(name, name.title().replace("_", "")) for name in OPERATIONS] == list(SPACE)


def test_each_image_gets_its_own_operation() -> None:
    batch = images(len(OPERATIONS))
    each = torch.cat([draws(name, 25, 1) for name in OPERATIONS])
    together = trivial_augment(batch, each)
    for i in range(len(OPERATIONS)):
        assert torch.equal(together[i], trivial_augment(batch[i : i + 1], each[i : i + 1])[0])


def test_gpu_path_gives_the_same_images(monkeypatch: pytest.MonkeyPatch) -> None:
    batch, each = images(64), uniform(0, torch.arange(64), 3)
    picked = trivial_augment(batch, each)
    all_kernels = "frostline.data.trivial_augment._apply"  # on a GPU, each image passes through each kernel
    monkeypatch.setattr(all_kernels, lambda kernel, family, *args: kernel(*args))
    assert torch.equal(trivial_augment(batch, each), picked)


def test_operations_and_strengths_are_equally_likely(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = {}

    def remember(kernel: Kernel, family: tuple[str, ...], batch: Tensor, *chosen: Tensor) -> Tensor:
        seen[family] = [values.flatten() for values in chosen]
        return batch

    monkeypatch.setattr("frostline.data.trivial_augment._apply", remember)
    ids = torch.arange(14_000)
    trivial_augment(torch.zeros(1, 3, 2, 2), uniform(0, ids, 3))
    operation, signed = seen[MOVES]
    assert ((operation.long().bincount() - 1000).abs() < 150).all()  # 5 standard deviations
    assert (((30 * signed).round().long() + 30).bincount().sub_(226).abs()[torch.arange(61) != 30] < 75).all()
    assert len(operation.unique()) == len(OPERATIONS)
