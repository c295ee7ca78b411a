"""A network with its preprocessing as one module, built from operations that every export format supports.

It computes the same as `predict.view` and `predict.probabilities_of`: resizing with rounding to 8 bits, centre crop,
normalisation and network. Height and width of the image are tensors throughout, never Python numbers, so that an
exported graph accepts any size.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from frostline.core.input_spec import InputSpec
from frostline.core.labels import class_probabilities
from frostline.data.resize_by_matrices import FILTERS

_ENDS = 64  # positions at each end of a line that are searched for the largest weight


class Portable(nn.Module):
    """Maps images `(N, 3, H, W)` uint8, RGB, N >= 1, of any height and width, to probabilities `(N, classes)`."""

    mean: Tensor
    std: Tensor
    places: Tensor
    ends: Tensor

    def __init__(self, network: nn.Module, spec: InputSpec, *, several: bool = False) -> None:
        """Show images to `network` as `spec` says; `several` is for multi-label networks."""
        super().__init__()
        self._several = several
        self.network = network
        self.spec = spec
        self.register_buffer("mean", torch.tensor(spec.mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(spec.std).view(1, 3, 1, 1))
        # Buffers, since tensors created inside a graph stay on the device of the trace.
        self.register_buffer("places", torch.arange(spec.size, dtype=torch.float64))
        self.register_buffer("ends", torch.arange(_ENDS, dtype=torch.float64))

    def forward(self, images: Tensor) -> Tensor:
        """Return probabilities `(N, classes)` float32; rows sum to 1 unless the network is multi-label."""
        logits = self.network((self.view(images) / 255 - self.mean) / self.std)
        return class_probabilities(logits, several=self._several)

    def view(self, images: Tensor) -> Tensor:
        """Return `(N, 3, S, S)` float32 with integer values, resized horizontally and then vertically, as in torch."""
        rows, columns = _pixels(images[0, 0, :, 0]), _pixels(images[0, 0, 0, :])
        down, across = (self._resized(one, other) for one, other in ((rows, columns), (columns, rows)))
        lines = _rounded(images.double() @ self._weights(columns, across).mT)
        shown = _rounded(self._weights(rows, down) @ lines)
        if self.spec.crop == "border":
            seen = self._inside(down)[:, None] & self._inside(across)
            shown = torch.where(seen, shown, (255 * self.mean).round().double())
        return shown.float()

    def _resized(self, pixels: Tensor, others: Tensor) -> Tensor:
        """Return the resized length of a line as float64; `others` are the pixels of the lines across it."""
        length, other = _count(pixels), _count(others)
        if self.spec.crop == "border":
            ratio = torch.maximum(length, other).double() / self.spec.resize
            return (length / ratio).round().clamp(min=1)
        shorter = torch.minimum(length, other)
        kept = shorter if self.spec.crop == "squash" else length
        return torch.div(kept * self.spec.resize, shorter, rounding_mode="floor").double()

    def _shown(self, resized: Tensor) -> Tensor:
        """Return the positions of the centre crop on a resized line; some lie outside if the line is too short."""
        start = (resized - self.spec.size) / 2
        return self.places + torch.where(start < 0, start.trunc(), start.round())

    def _inside(self, resized: Tensor) -> Tensor:
        shown = self._shown(resized)
        return (shown >= 0) & (shown < resized)

    def _weights(self, pixels: Tensor, resized: Tensor) -> Tensor:
        """Return `(positions, pixels)` float64: the weights of the resize for the positions of the centre crop.

        They are rounded to multiples of a power of two, the finest that 16 bits can hold, as in torch's resize of uint8
        (`_compute_index_ranges_int16_weights` in UpSampleKernel.cpp). The largest weight may be near either end of a
        line, outside the centre crop.
        """
        ends = torch.minimum(self.ends, resized - 1)
        places = torch.minimum(self._shown(resized).clamp(min=0), resized - 1)
        shown = torch.cat([places, ends, resized - 1 - ends]) + 0.5
        step = _count(pixels) / resized
        weights = FILTERS[self.spec.interpolation].weigh((pixels - step * shown[:, None]).abs() / step.clamp(min=1))
        weights = weights / weights.sum(1, keepdim=True)
        steps = torch.exp2(torch.log2((2**15 - 0.5) / weights.max()).ceil() - 1).clamp(max=2**22)
        return (weights.sign() * (weights.abs() * steps + 0.5).floor() / steps)[: self.spec.size]


def _pixels(line: Tensor) -> Tensor:
    """Return the centres 0.5, 1.5, ... of the pixels of a line, float64."""
    return torch.ones_like(line, dtype=torch.float64).cumsum(0) - 0.5


def _count(pixels: Tensor) -> Tensor:
    return torch.ones_like(pixels).sum().long()


def _rounded(values: Tensor) -> Tensor:
    """Return `values` rounded and clamped to 0..255."""
    return (values + 0.5).floor().clamp(0, 255)
