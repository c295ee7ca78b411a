"""What a picture looks like in 128 bits, few of which change where it is saved, resized, lit or cut a little otherwise.

The bits are the usual two kinds: `phash`, by the low frequencies, and `dhash`, by neighbours. Pictures that are not
alike often agree in one of them by chance, but hardly ever in both. Many are hashed at once, each by itself: ImageHash
takes some 0.3 ms for one and holds Python's lock, which all threads that decode would wait for.
"""

from __future__ import annotations

import numpy as np
import scipy.fft
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

SIDE = 32
"""Side in pixels of what is looked at; to enlarge smaller pictures would make them alike."""
CONTRAST = 8.0
"""Standard deviation in levels of what is looked at; what is flatter has bits of noise."""
NONE = 0
"""Stands for no hash: of no other picture are all bits of `phash` zero, since some frequency is above their median."""
_LUMA = torch.tensor([0.299, 0.587, 0.114])  # ITU-R BT.601, as Pillow makes grey


def small(picture: Tensor) -> Tensor:
    """Return `(3, 32, 32)` uint8 of `(3, H, W)` uint8, all zeros where that is smaller."""
    if min(picture.shape[1:]) < SIDE:
        return torch.zeros(3, SIDE, SIDE, dtype=torch.uint8)
    dense = picture[None].contiguous(
        memory_format=torch.channels_last
    )  # where torch is several times as fast as Pillow
    return F.interpolate(dense, size=(SIDE, SIDE), mode="bilinear", antialias=True)[0]


def of(pictures: Tensor) -> NDArray[np.int64]:
    """Return `(B, 2)` int64: the bits of `phash` and `dhash` of `(B, 3, 32, 32)` uint8; `NONE` where too flat."""
    grey = torch.einsum("bchw,c->bhw", pictures.float(), _LUMA).round()
    frequencies = scipy.fft.dctn(grey.numpy(), axes=(1, 2))[:, :8, :8].reshape(-1, 64)
    phash = frequencies > np.median(frequencies, axis=1, keepdims=True)
    levels = F.interpolate(grey[:, None], size=(8, 9), mode="bicubic", antialias=True)[:, 0].round().numpy()
    dhash = (levels[:, :, 1:] > levels[:, :, :-1]).reshape(-1, 64)
    bits = np.packbits(np.stack([phash, dhash], axis=1), axis=2).view(np.int64)[:, :, 0]
    bits[grey.std((1, 2)).numpy() < CONTRAST] = NONE
    return bits
