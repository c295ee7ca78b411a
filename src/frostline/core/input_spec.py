"""The picture that a network expects: its size, how it is resized, and how its values are normalised."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

CROPS = ("center", "squash", "border")
"""How timm makes a square of a picture (`crop_mode` of `timm.data.create_transform`)."""


@dataclass(frozen=True)
class InputSpec:
    """The picture that a network expects."""

    size: int
    """Side in pixels of the square that the network sees."""
    resize: int
    """Shorter side in pixels to which a picture is resized before its centre is cut out; with `squash` both sides, with
    `border` the longer one."""
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    """Of red, green and blue in 0..1: the network gets `(value - mean) / std`."""
    interpolation: str
    """How a picture is resized: `bilinear` or `bicubic`, both antialiased."""
    crop: str = "center"
    """One of `CROPS`: `center`, or `squash`, which keeps no aspect ratio, or `border`, which shows the whole picture
    and beside it `mean`."""

    @classmethod
    def of(cls, metadata: Mapping[str, Any]) -> InputSpec:
        """Return what `metadata` of saved weights says."""
        mean, std = tuple(metadata["mean"]), tuple(metadata["std"])
        crop = metadata.get("crop", cls.crop)  # of which older files say nothing
        return cls(metadata["size"], metadata["resize"], mean, std, metadata["interpolation"], crop)

    def normalise(self, views: Tensor) -> Tensor:
        """Return `views`, `(B, 3, S, S)` float32 in 0..255, as the network gets them; they are overwritten."""
        # Plain numbers per channel: a tensor of them would be a host sync.
        for channel, center, spread in zip(views.unbind(1), self.mean, self.std, strict=True):
            channel.div_(255 * spread).sub_(center / spread)
        return views
