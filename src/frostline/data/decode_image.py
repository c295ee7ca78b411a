"""Decode an image of any format and mode that Pillow reads to upright 8-bit sRGB, and record the conversions."""

from __future__ import annotations

from dataclasses import dataclass
from math import nan
from typing import cast

import numpy as np
import torch
from PIL import Image
from simplejpeg import decode_jpeg
from torch import Tensor

from frostline.data import icc
from frostline.data.bit_depth import FULL, TOP, Levels, Values, finite

CONVERSIONS = (
    *("upright", "first_frame", "sixteen_bits", "palette", "cmyk", "grayscale", "alpha"),
    *("deep_colours", "profile", "bad_profile"),
)
"""Possible conversions of an image: rotated or mirrored by its EXIF orientation; first frame of an animation taken;
more than 8 bits mapped to 8; palette, CMYK or grey converted to RGB; transparency composited on white; only the upper 8
of 16 bits per colour read, which is all that Pillow gives; converted to sRGB by its ICC profile, or not, since the
profile is broken."""

_ORIENTATION = 0x0112
_TIFF_BITS, _TIFF_PHOTOMETRIC, _TIFF_SAMPLES = 258, 262, 339
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""The transpose for each EXIF orientation. Pillow's own function also rewrites the EXIF, if that is intact."""

_COLOURS = ("L", "RGB", "CMYK", "LAB")  # modes whose ICC profile can be applied


@dataclass(frozen=True)
class ImageFacts:
    """Facts about an original image beside its pixels."""

    done: int = 0
    """Conversions, as bits: bit i stands for `CONVERSIONS[i]`."""
    lowest: float = nan
    highest: float = nan
    """Range of its finite values if they have more than 8 bits, else NaN."""


def convert(image: Image.Image, levels: Levels = FULL) -> tuple[Image.Image, ImageFacts]:
    """Return the image as sRGB, upright by its EXIF orientation, on white if transparent, and facts about the original.

    `levels` maps values of more than 8 bits to 8; values of 8 bits are not changed. `ValueError` if the range of
    brightness is unknown.
    """
    deep, profile = _Deep.of(image), image.info.get("icc_profile")
    rawmodes = str(getattr(image, "tile", ""))
    done = {
        "first_frame": getattr(image, "is_animated", False) and image.format != "MPO",  # a photo and its depth map
        "sixteen_bits": deep is not None or ";16" in rawmodes,
        "deep_colours": deep is None and ";16" in rawmodes,
        "upright": _turn(image) is not None,
        "palette": image.mode in ("P", "PA"),
        "cmyk": image.mode == "CMYK",
        "grayscale": deep is not None or image.mode in ("1", "L", "LA", "La"),
        "alpha": image.has_transparency_data,
    }
    if done["upright"]:
        image.load()  # makes a TIFF upright, and updates its EXIF
        if (turn := _turn(image)) is not None:
            image = image.transpose(turn)
    span = (nan, nan)
    if deep is not None:
        values = deep.values(image)
        known = finite(values)
        span = float(known.min()), float(known.max())
        image = _eight_bits(values, image.info.get("transparency"), levels, inverted=deep.inverted)
    if done["alpha"] or image.mode not in _COLOURS:
        image = image.convert("RGBA" if done["alpha"] else "L" if done["grayscale"] else "RGB")
    if image.mode == "LAB" or (profile and (deep is None or levels == FULL)):  # else data.range defines the grey levels
        image, told = _in_srgb(image, profile, grey=done["grayscale"])
        done |= told
    if done["alpha"]:
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB"), ImageFacts(sum(1 << i for i, name in enumerate(CONVERSIONS) if done.get(name)), *span)


def _turn(image: Image.Image) -> Image.Transpose | None:
    """Return the transpose that makes the image upright, None if it is. JPEG XL is, except a transcoded JPEG."""
    if image.format == "JXL" and not getattr(image, "jpeg", False):
        return None
    return _TURNS.get(cast(int, image.getexif().get(_ORIENTATION)))


def _in_srgb(image: Image.Image, profile: bytes | None, *, grey: bool) -> tuple[Image.Image, dict[str, bool]]:
    """Return the image in sRGB with the same transparency, and the `CONVERSIONS` that were done."""
    flat = image
    if image.mode == "RGBA":
        flat = image.getchannel("R") if grey else image.convert("RGB")
    try:
        converted = icc.to_srgb(flat, profile if profile and image.mode != "LAB" else icc.lab_profile())
    except icc.BadProfile:
        return image, {"bad_profile": True}
    if converted is flat:
        return image, {}
    if image.mode == "RGBA":
        converted = converted.convert("RGB")
        converted.putalpha(image.getchannel("A"))
    return converted, {"profile": True}


@dataclass(frozen=True)
class _Deep:
    """The encoding of a grey image of more than 8 bits."""

    twelve: bool
    """12 bits, scaled here to 16, as Pillow does for PGM and JPEG 2000."""
    unsigned: bool
    """Unsigned 32 bits, which Pillow reads as signed."""
    inverted: bool
    """White is the lowest value, which Pillow respects only for 8 bits."""

    @classmethod
    def of(cls, image: Image.Image) -> _Deep | None:
        """Return the encoding from the header of `image`; None for images of 8 bits or in colour."""
        if not (image.mode.startswith("I") or image.mode == "F"):
            return None
        tags = getattr(image, "tag_v2", {})
        return cls(
            twelve="I;12" in str(getattr(image, "tile", "")),
            unsigned=image.mode == "I" and tags.get(_TIFF_BITS) == (32,) and tags.get(_TIFF_SAMPLES, (1,)) == (1,),
            inverted=tags.get(_TIFF_PHOTOMETRIC) == 0,
        )

    def values(self, image: Image.Image) -> Values:
        """Return the values `(H, W)`."""
        values = np.asarray(image)
        if self.twelve:
            return (values * (TOP / 4095)).round().astype(np.uint16)
        return values.view(np.uint32) if self.unsigned else values


def values_of(image: Image.Image) -> Values | None:
    """Return the values `(H, W)` of a grey image of more than 8 bits; None for any other, which is not decoded."""
    deep = _Deep.of(image)
    return None if deep is None else deep.values(image)


def _eight_bits(values: Values, clear: object, levels: Levels, *, inverted: bool) -> Image.Image:
    """Return values as an 8-bit grey image, with alpha if `clear`, the value of transparent pixels, is not None."""
    shown = levels(values)
    grey = Image.fromarray(255 - shown if inverted else shown)
    if clear is not None:
        grey.putalpha(Image.fromarray(np.where(values == clear, 0, 255).astype(np.uint8)))
    return grey


def tensor_of(opened: Image.Image, levels: Levels = FULL) -> tuple[Tensor, ImageFacts]:
    """Return an opened image as `(3, H, W)` uint8, converted as by `convert`, and facts about the original."""
    if (plain := _plain_jpeg(opened)) is not None:
        return plain, ImageFacts()
    image, facts = convert(opened, levels)
    return torch.from_numpy(np.array(image)).permute(2, 0, 1), facts


def _plain_jpeg(image: Image.Image) -> Tensor | None:
    """Return the pixels of an intact JPEG that needs no conversion, decoded by libjpeg; None for any other image.

    They equal Pillow's bit for bit, in three quarters of its time. On any warning of libjpeg, Pillow decodes the image.
    """
    source = getattr(image, "fp", None)
    if image.format != "JPEG" or image.mode != "RGB" or source is None or image.getexif().get(_ORIENTATION, 1) != 1:
        return None
    if (profile := image.info.get("icc_profile")) and not icc.is_srgb(profile):
        return None
    source.seek(0)
    try:
        return torch.from_numpy(decode_jpeg(source.read(), "RGB")).permute(2, 0, 1)
    except ValueError:
        return None
