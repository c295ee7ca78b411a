"""What a picture looks like in 128 bits, few of which change where it is saved, resized, lit or cut a little otherwise.

The bits are ImageHash's: `phash`, by the low frequencies, and `dhash`, by neighbours. Pictures that are not alike often
agree in one of the two by chance, but hardly ever in both.
"""

from __future__ import annotations

import imagehash
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

SIDE = 32
"""Side in pixels of what `phash` looks at; to enlarge smaller pictures would make them alike."""
CONTRAST = 8.0
"""Standard deviation in levels of what it looks at; what is flatter has bits of noise."""
NONE = 0
"""Stands for no hash: of no other picture are all bits of `phash` zero, since some frequency is above their median."""


def of(picture: Tensor) -> NDArray[np.int64]:
    """Return `(2,)` int64, the bits of `phash` and `dhash` of `(3, H, W)` uint8; `NONE` where too small or too flat."""
    if min(picture.shape[1:]) < SIDE:
        return np.full(2, NONE)
    dense = picture[None].contiguous(
        memory_format=torch.channels_last
    )  # where torch is several times as fast as Pillow
    small = F.interpolate(dense, size=(SIDE, SIDE), mode="bilinear", antialias=True)[0].permute(1, 2, 0)
    grey = Image.fromarray(small.numpy()).convert("L")
    if np.asarray(grey).std() < CONTRAST:
        return np.full(2, NONE)
    bits = [found.hash.ravel() for found in (imagehash.phash(grey), imagehash.dhash(grey))]
    return np.packbits(bits, axis=1).view(np.int64)[:, 0]
