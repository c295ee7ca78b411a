"""A network with its preprocessing inside, made of operations that every export format has.

It computes what `predict.view` and `predict.probabilities_of` compute: the resize of the picture, with its roundings to
whole levels, the centre crop, normalisation and network. The picture's height and width are tensors throughout, never
Python numbers, so that no size is frozen into an exported graph.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from frostline.core.input_spec import InputSpec
from frostline.core.labels import class_probabilities

_ENDS = 64  # places at each end of a line among which the largest weight is looked for


class Portable(nn.Module):
    """Turns pictures `(N, 3, H, W)` uint8, RGB, N >= 1, of any height and width, into probabilities `(N, classes)`."""

    mean: Tensor
    std: Tensor
    places: Tensor
    ends: Tensor

    def __init__(self, network: nn.Module, spec: InputSpec, *, several: bool = False) -> None:
        """Have `network` see pictures as `spec` says; one may be of `several` classes, or of one."""
        super().__init__()
        self._several = several
        self.network = network
        self.spec = spec
        self.register_buffer("mean", torch.tensor(spec.mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(spec.std).view(1, 3, 1, 1))
        # A buffer, since what is made within a graph stays on the device on which it was traced.
        self.register_buffer("places", torch.arange(spec.size, dtype=torch.float64))
        self.register_buffer("ends", torch.arange(_ENDS, dtype=torch.float64))

    def forward(self, pictures: Tensor) -> Tensor:
        """Return `(N, classes)` float32, each row a sum of one where a picture is of one class."""
        logits = self.network((self.view(pictures) / 255 - self.mean) / self.std)
        return class_probabilities(logits, several=self._several)

    def view(self, pictures: Tensor) -> Tensor:
        """Return `(N, 3, S, S)` float32 in whole levels, resized along lines and then across them, as torch does."""
        rows, columns = _pixels(pictures[0, 0, :, 0]), _pixels(pictures[0, 0, 0, :])
        down, across = (self._resized(one, other) for one, other in ((rows, columns), (columns, rows)))
        lines = _rounded(pictures.double() @ self._weights(columns, across).mT)
        shown = _rounded(self._weights(rows, down) @ lines)
        if self.spec.crop == "border":
            seen = self._inside(down)[:, None] & self._inside(across)
            shown = torch.where(seen, shown, (255 * self.mean).round().double())
        return shown.float()

    def _resized(self, pixels: Tensor, others: Tensor) -> Tensor:
        """Return the length that a line becomes, float64, where lines across it have `others`."""
        length, other = _count(pixels), _count(others)
        if self.spec.crop == "border":
            ratio = torch.maximum(length, other).double() / self.spec.resize
            return (length / ratio).round().clamp(min=1)
        shorter = torch.minimum(length, other)
        kept = shorter if self.spec.crop == "squash" else length
        return torch.div(kept * self.spec.resize, shorter, rounding_mode="floor").double()

    def _shown(self, resized: Tensor) -> Tensor:
        """Return the places of a resized line that are shown; of one that is too short some lie outside."""
        start = (resized - self.spec.size) / 2
        return self.places + torch.where(start < 0, start.trunc(), start.round())

    def _inside(self, resized: Tensor) -> Tensor:
        shown = self._shown(resized)
        return (shown >= 0) & (shown < resized)

    def _weights(self, pixels: Tensor, resized: Tensor) -> Tensor:
        """Return `(places, pixels)` float64: the weights of the resize for the places that the centre crop leaves.

        They come in steps of a power of two, the finest that 16 bits can hold, as where torch resizes uint8
        (`_compute_index_ranges_int16_weights` in UpSampleKernel.cpp). The largest weight may stand near either end of
        a line, outside the centre crop.
        """
        ends = torch.minimum(self.ends, resized - 1)
        places = torch.minimum(self._shown(resized).clamp(min=0), resized - 1)
        shown = torch.cat([places, ends, resized - 1 - ends]) + 0.5
        step = _count(pixels) / resized
        weights = _FILTERS[self.spec.interpolation]((pixels - step * shown[:, None]).abs() / step.clamp(min=1))
        weights = weights / weights.sum(1, keepdim=True)
        steps = torch.exp2(torch.log2((2**15 - 0.5) / weights.max()).ceil() - 1).clamp(max=2**22)
        return (weights.sign() * (weights.abs() * steps + 0.5).floor() / steps)[: self.spec.size]


def _triangle(distance: Tensor) -> Tensor:
    return (1 - distance).clamp(min=0)


def _cubic(distance: Tensor) -> Tensor:
    """Cubic convolution with a = -1/2, as in `data.resize`."""
    near = (1.5 * distance - 2.5) * distance * distance + 1
    far = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
    return torch.where(distance < 1, near, torch.where(distance < 2, far, torch.zeros_like(far)))


_FILTERS = {"bilinear": _triangle, "bicubic": _cubic}


def _pixels(line: Tensor) -> Tensor:
    """Return the centres 0.5, 1.5, ... of the pixels of a line, float64."""
    return torch.ones_like(line, dtype=torch.float64).cumsum(0) - 0.5


def _count(pixels: Tensor) -> Tensor:
    return torch.ones_like(pixels).sum().long()


def _rounded(values: Tensor) -> Tensor:
    """Return `values` as 8 bits hold them."""
    return (values + 0.5).floor().clamp(0, 255)
