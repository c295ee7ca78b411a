"""A network with its preprocessing inside, made of operations that every export format has.

It computes what `predictor.view` and the softmax compute: the squash to `decode_size` with its roundings, where the
run's data have one, then resize, centre crop, normalisation and network. The picture's height and width are
tensors throughout, never Python numbers, so that no size is frozen into an exported graph.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from frostline.models import InputSpec


class Portable(nn.Module):
    """Turns pictures `(N, 3, H, W)` uint8, RGB, N >= 1, of any height and width, into probabilities `(N, classes)`."""

    mean: Tensor
    std: Tensor
    places: Tensor
    stored: Tensor

    def __init__(self, network: nn.Module, spec: InputSpec, decode_size: int | None) -> None:
        super().__init__()
        self.network = network
        self.spec = spec
        self.decode_size = decode_size
        self.register_buffer("mean", torch.tensor(spec.mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(spec.std).view(1, 3, 1, 1))
        # Buffers, since what is made within a graph stays on the device on which it was traced.
        self.register_buffer("places", torch.arange(spec.size) + 0.5)
        self.register_buffer("stored", torch.arange(decode_size or 0) + 0.5)

    def forward(self, pictures: Tensor) -> Tensor:
        """Return `(N, classes)` float32, each row a sum of one."""
        rows, columns = _pixels(pictures[0, 0, :, 0]), _pixels(pictures[0, 0, 0, :])
        height, width = _count(rows), _count(columns)
        values = pictures.float()
        top, bottom = _centre(height, torch.minimum(height, width), self.spec)
        left, right = _centre(width, torch.minimum(height, width), self.spec)
        if self.decode_size is not None:
            values = _squash(values, rows, columns, self.stored)
            rows = columns = self.stored
            height = width = _count(rows)
        vertical = _weights(rows, top * height, bottom * height, self.places)
        horizontal = _weights(columns, left * width, right * width, self.places)
        views = vertical @ (values @ horizontal.mT)
        return torch.softmax(self.network((views / 255 - self.mean) / self.std), 1)


def _pixels(line: Tensor) -> Tensor:
    """Return the centres 0.5, 1.5, ... of the pixels of a line, float32."""
    return torch.ones_like(line, dtype=torch.float32).cumsum(0) - 0.5


def _count(pixels: Tensor) -> Tensor:
    return torch.ones_like(pixels).sum().long()


def _centre(length: Tensor, shorter: Tensor, spec: InputSpec) -> tuple[Tensor, Tensor]:
    """Return where the centre crop begins and ends along one side, as fractions of it: `augment.center_boxes`."""
    resized = torch.div(length * spec.resize, shorter, rounding_mode="floor").float()
    start = ((resized - spec.size) / 2).round()
    return start / resized, (start + spec.size) / resized


def _weights(pixels: Tensor, start: Tensor, end: Tensor, places: Tensor) -> Tensor:
    """Return `(places, pixels)`: the antialiased bilinear weights of `resample`, the filter seeing all pixels."""
    step = (end - start).to(pixels.dtype) / places.numel()
    centres = start + step * places.to(pixels.dtype)
    weights = (1 - (pixels - centres[:, None]).abs() / step.clamp(min=1)).clamp(min=0)
    return weights / weights.sum(1, keepdim=True).clamp(min=1e-12)  # as in `resample`, what lies outside is zero


def _squash(values: Tensor, rows: Tensor, columns: Tensor, places: Tensor) -> Tensor:
    """Return float32 pictures as `pixels.squash` gives them, first along lines and then across them."""
    values = _rounded(values.double() @ _fixed_point(columns, places).mT)
    return _rounded(_fixed_point(rows, places) @ values).float()


def _fixed_point(pixels: Tensor, places: Tensor) -> Tensor:
    """Return `(places, pixels)` float64: weights in steps of a power of two, the finest that 16 bits can hold.

    So does torch where it resizes uint8 (`_compute_index_ranges_int16_weights` in UpSampleKernel.cpp).
    """
    weights = _weights(pixels.double(), torch.zeros_like(pixels[0]), _count(pixels), places)
    steps = torch.exp2(torch.log2((2**15 - 0.5) / weights.max()).ceil() - 1).clamp(max=2**22)
    return (weights * steps + 0.5).floor() / steps


def _rounded(values: Tensor) -> Tensor:
    """Return `values` as 8 bits hold them."""
    return (values + 0.5).floor().clamp(0, 255)
