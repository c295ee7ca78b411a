"""Mixup (arXiv:1710.09412) and CutMix (arXiv:1905.04899): mix a batch with itself, shifted by one sample."""

from __future__ import annotations

import math

import numpy as np
from torch import Tensor

from frostline.core.randomness import derive_seed


def mix(
    inputs: Tensor, labels: Tensor, *, mixup: float, cutmix: float, seed: int, step: int
) -> tuple[Tensor, Tensor, float]:
    """Return the mixed inputs, the partners' labels, and the share in 0..1 of the inputs' own labels.

    `mixup` and `cutmix` are the alphas of the two methods, 0 to disable; with both, each step draws one of them. The
    batch is in random order already, so the neighbouring sample is as good a partner as any.
    """
    methods = [(_mixup, mixup)] * (mixup > 0) + [(_cutmix, cutmix)] * (cutmix > 0)
    if not methods:
        return inputs, labels, 1.0
    draws = np.random.default_rng(derive_seed(seed, "mix", step))
    method, alpha = methods[draws.integers(len(methods))]
    mixed, share = method(inputs, float(draws.beta(alpha, alpha)), draws)
    return mixed, labels.roll(1, 0), share


def _mixup(inputs: Tensor, share: float, _: np.random.Generator) -> tuple[Tensor, float]:
    return inputs.lerp(inputs.roll(1, 0), 1 - share), share


def _cutmix(inputs: Tensor, share: float, draws: np.random.Generator) -> tuple[Tensor, float]:
    """Return inputs `(N, C, H, W)` with a box of about `1 - share` of the area from the partner, and the true share."""
    height, width = inputs.shape[-2:]
    side = math.sqrt(1 - share) / 2
    y, x = draws.random(2)
    rows = slice(max(round((y - side) * height), 0), min(round((y + side) * height), height))
    columns = slice(max(round((x - side) * width), 0), min(round((x + side) * width), width))
    mixed = inputs.clone()
    mixed[..., rows, columns] = inputs.roll(1, 0)[..., rows, columns]
    return mixed, 1 - (rows.stop - rows.start) * (columns.stop - columns.start) / (height * width)
