"""Common image corruptions in five severities: noise, blur, contrast, pixelate and JPEG (arXiv:1903.12261).

They are applied to the network's view, after resize and centre crop, as in ImageNet-C. The effect of blur, pixelate and
JPEG depends on the size in pixels, so Hendrycks and Dietterich published other strengths for smaller images; those for
the side nearest in ratio are used. Noise depends only on the image's id and the severity, so that every run sees the
same corrupted images.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from frostline.core import machine
from frostline.core.randomness import derive_seed, uniform

Strengths = tuple[float, float, float, float, float]
"""From severity 1 to severity 5."""

# From ImageNet-C/create_c/make_{cifar,tinyimagenet,imagenet}_c.py of github.com/hendrycks/robustness, by side.
_PUBLISHED: dict[int, dict[str, Strengths]] = {
    32: {
        "noise": (0.04, 0.06, 0.08, 0.09, 0.10),
        "blur": (0.4, 0.6, 0.7, 0.8, 1.0),
        "contrast": (0.75, 0.5, 0.4, 0.3, 0.15),
        "pixelate": (0.95, 0.9, 0.85, 0.75, 0.65),
        "jpeg": (80, 65, 58, 50, 40),
    },
    64: {
        "noise": (0.04, 0.08, 0.12, 0.15, 0.18),
        "blur": (0.5, 0.75, 1.0, 1.25, 1.5),
        "contrast": (0.4, 0.3, 0.2, 0.1, 0.05),
        "pixelate": (0.9, 0.8, 0.7, 0.6, 0.5),
        "jpeg": (65, 58, 50, 40, 25),
    },
    224: {
        "noise": (0.08, 0.12, 0.18, 0.26, 0.38),
        "blur": (1, 2, 3, 4, 6),
        "contrast": (0.4, 0.3, 0.2, 0.1, 0.05),
        "pixelate": (0.6, 0.5, 0.4, 0.3, 0.25),
        "jpeg": (25, 18, 15, 10, 7),
    },
}
_CHUNK = 16  # images whose noise is drawn at once, which takes millions of 64-bit integers


def strengths(side: int) -> dict[str, Strengths]:
    """Return the strengths of each corruption, by name, for images of `side` x `side` pixels."""
    return _PUBLISHED[min(_PUBLISHED, key=lambda published: abs(math.log(published / side)))]


def corrupt(name: str, strength: float, images: Tensor, ids: Tensor) -> Tensor:
    """Return `images`, `(B, 3, S, S)` float32 in 0..255, corrupted and rounded to integers; `ids` is `(B,)` int64."""
    return _CORRUPTIONS[name](images.round(), strength, ids).round().clamp(0, 255)


def _noise(images: Tensor, scale: float, ids: Tensor) -> Tensor:
    """Add Gaussian noise with a standard deviation of `scale` times the range."""
    count = images[0].numel()
    drawn = torch.cat([_normal(part, count) for part in ids.split(_CHUNK)])
    return images + 255 * scale * drawn.view_as(images)


def _normal(ids: Tensor, count: int) -> Tensor:
    """Return `(len(ids), count)` standard normal draws; each row depends only on its id (Box and Muller 1958)."""
    even = uniform(derive_seed("shift", "noise"), ids, count + count % 2)
    first, second = even.chunk(2, 1)
    radius, angle = (-2 * (1 - first).log()).sqrt(), 2 * math.pi * second
    return torch.cat([radius * angle.cos(), radius * angle.sin()], 1)[:, :count]


def _blur(images: Tensor, sigma: float, ids: Tensor) -> Tensor:
    """Blur with a Gaussian of `sigma` pixels, truncated at four sigma; edge pixels are repeated outside."""
    side = images.shape[-1]
    reach = int(4 * sigma + 0.5)
    offsets = torch.arange(-reach, reach + 1)
    kernel = torch.exp(-0.5 * (offsets / sigma) ** 2)
    seen = (torch.arange(side)[:, None] + offsets).clamp(0, side - 1)
    weights = torch.zeros(side, side).scatter_add_(1, seen, (kernel / kernel.sum()).expand(side, -1))
    weights = weights.to(images.device)
    return weights @ images @ weights.T


def _contrast(images: Tensor, factor: float, ids: Tensor) -> Tensor:
    """Move each channel towards its mean over the image."""
    mean = images.mean((2, 3), keepdim=True)
    return mean + factor * (images - mean)


def _pixelate(images: Tensor, factor: float, ids: Tensor) -> Tensor:
    """Reduce each side to `factor` of its pixels by Pillow's box filter, and enlarge the blocks again."""
    side = images.shape[-1]
    blocks = max(1, int(side * factor))
    centres = (torch.arange(blocks) + 0.5) * (side / blocks)
    offset = (torch.arange(side) + 0.5 - centres[:, None]) * (blocks / side)
    inside = ((offset > -0.5) & (offset <= 0.5)).float()
    means = (inside / inside.sum(1, keepdim=True)).to(images.device)
    return F.interpolate(means @ images @ means.T, side, mode="nearest-exact")


def _jpeg(images: Tensor, quality: float, ids: Tensor) -> Tensor:
    """Compress as JPEG and decode, with Pillow's default settings beside `quality`."""
    arrays = images.byte().permute(0, 2, 3, 1).cpu().numpy()
    with ThreadPoolExecutor(machine.cores()) as pool:
        decoded = np.stack(list(pool.map(partial(_compressed, quality=int(quality)), arrays)))
    return torch.from_numpy(decoded).to(images.device).permute(0, 3, 1, 2).float()


def _compressed(array: np.ndarray, quality: int) -> np.ndarray:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "JPEG", quality=quality)
    with Image.open(buffer) as image:
        return np.asarray(image)


_CORRUPTIONS: dict[str, Callable[[Tensor, float, Tensor], Tensor]] = {
    "noise": _noise,
    "blur": _blur,
    "contrast": _contrast,
    "pixelate": _pixelate,
    "jpeg": _jpeg,
}
