"""The input of a network: size, resizing and normalisation of images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

CROPS = ("center", "squash", "border")
"""How timm makes an image square (`crop_mode` of `timm.data.create_transform`)."""


@dataclass(frozen=True)
class InputSpec:
    """Size, resizing and normalisation of the images that a network takes."""

    size: int
    """Side in pixels of the network's square input."""
    resize: int
    """Shorter side in pixels of the resized image before the centre crop; with `squash` both sides, with `border` the
    longer side."""
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    """Of red, green and blue in 0..1: the network gets `(value - mean) / std`."""
    interpolation: str
    """`bilinear` or `bicubic`, both antialiased."""
    crop: str = "center"
    """One of `CROPS`: `center`; `squash`, which changes the aspect ratio; `border`, which shows the whole image padded
    with `mean`."""

    @classmethod
    def of(cls, metadata: Mapping[str, Any]) -> InputSpec:
        """Return the spec in the `metadata` of saved weights."""
        mean, std = tuple(metadata["mean"]), tuple(metadata["std"])
        crop = metadata.get("crop", cls.crop)  # missing in older files
        return cls(metadata["size"], metadata["resize"], mean, std, metadata["interpolation"], crop)

    def normalise(self, views: Tensor) -> Tensor:
        """Return `views`, `(B, 3, S, S)` float32 in 0..255, normalised for the network; they are overwritten."""
        # Plain numbers per channel: a tensor of them would synchronise with the host.
        for channel, center, spread in zip(views.unbind(1), self.mean, self.std, strict=True):
            channel.div_(255 * spread).sub_(center / spread)
        return views
