"""Perceptual hashes of 128 bits, few of which change if an image is recompressed, resized, brightened or cropped a bit.

The bits are of two common kinds: `phash`, of low frequencies, and `dhash`, of differences between neighbours. Different
images often agree in one of them by chance, but hardly ever in both. Images are hashed in batches: ImageHash takes
about 0.3 ms per image and holds the GIL, for which all decoding threads would wait.
"""

from __future__ import annotations

import numpy as np
import scipy.fft
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

SIDE = 32
"""Side in pixels to which images are reduced before hashing; enlarging smaller images would make them similar."""
CONTRAST = 8.0
"""Smallest standard deviation in levels of a hashed image; the bits of flatter images are noise."""
NONE = 0
"""Stands for no hash: `phash` is never all zeros, since some frequency is above the median."""
_LUMA = torch.tensor([0.299, 0.587, 0.114])  # ITU-R BT.601, as in Pillow


def small(image: Tensor) -> Tensor:
    """Return an image `(3, H, W)` uint8 reduced to `(3, 32, 32)`; all zeros if it is smaller."""
    if min(image.shape[1:]) < SIDE:
        return torch.zeros(3, SIDE, SIDE, dtype=torch.uint8)
    dense = image[None].contiguous(memory_format=torch.channels_last)  # several times as fast as Pillow
    return F.interpolate(dense, size=(SIDE, SIDE), mode="bilinear", antialias=True)[0]


def of(images: Tensor) -> NDArray[np.int64]:
    """Return `(B, 2)` int64: the bits of `phash` and `dhash` of `(B, 3, 32, 32)` uint8; `NONE` for flat images."""
    grey = torch.einsum("bchw,c->bhw", images.float(), _LUMA).round()
    frequencies = scipy.fft.dctn(grey.numpy(), axes=(1, 2))[:, :8, :8].reshape(-1, 64)
    phash = frequencies > np.median(frequencies, axis=1, keepdims=True)
    levels = F.interpolate(grey[:, None], size=(8, 9), mode="bicubic", antialias=True)[:, 0].round().numpy()
    dhash = (levels[:, :, 1:] > levels[:, :, :-1]).reshape(-1, 64)
    bits = np.packbits(np.stack([phash, dhash], axis=1), axis=2).view(np.int64)[:, :, 0]
    bits[grey.std((1, 2)).numpy() < CONTRAST] = NONE
    return bits
