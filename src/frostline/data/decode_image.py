"""A picture becomes pixels: any file and mode that Pillow knows to upright 8-bit RGB, and what was done to it."""

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
"""What may have been done to a picture: turned as its EXIF says; of an animation the first frame taken; more than 8
bits made 8; colours of a palette, ink (CMYK) or shades of grey made RGB; laid on white where it is transparent; of 16
bits per colour the upper 8 taken, which is all that Pillow gives; colours brought to sRGB by its ICC profile, or left
as they are since that is broken."""

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
"""What makes a picture of that orientation upright. Pillow's own function rewrites the EXIF too, if that is intact."""

_COLOURS = ("L", "RGB", "CMYK", "LAB")  # modes whose profile can be followed


@dataclass(frozen=True)
class PictureFacts:
    """What a picture was, beside its pixels."""

    done: int = 0
    """What was done to it: bit i stands for `CONVERSIONS[i]`."""
    lowest: float = nan
    highest: float = nan
    """What its values span where they have more than 8 bits each, NaN where not; those that are no numbers left out."""


def convert(image: Image.Image, levels: Levels = FULL) -> tuple[Image.Image, PictureFacts]:
    """Return the picture as sRGB, upright by its EXIF orientation, on white where transparent, and what it was.

    Values of more than 8 bits become 8 by `levels`, those of 8 are not touched by them. `ValueError` where nothing
    says how bright a value is.
    """
    deep, profile = _Deep.of(image), image.info.get("icc_profile")
    rawmodes = str(getattr(image, "tile", ""))
    done = {
        "first_frame": getattr(image, "is_animated", False),
        "sixteen_bits": deep is not None or ";16" in rawmodes,
        "deep_colours": deep is None and ";16" in rawmodes,
        "upright": _turn(image) is not None,
        "palette": image.mode in ("P", "PA"),
        "cmyk": image.mode == "CMYK",
        "grayscale": deep is not None or image.mode in ("1", "L", "LA", "La"),
        "alpha": image.has_transparency_data,
    }
    if done["upright"]:
        image.load()  # after which a TIFF is upright, and says so
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
    if image.mode == "LAB" or (profile and (deep is None or levels == FULL)):  # else grey by what the person says
        image, told = _in_srgb(image, profile, grey=done["grayscale"])
        done |= told
    if done["alpha"]:
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB"), PictureFacts(
        sum(1 << i for i, name in enumerate(CONVERSIONS) if done.get(name)), *span
    )


def _turn(image: Image.Image) -> Image.Transpose | None:
    """Return what makes the picture upright. Of JPEG XL it is, whatever its EXIF says, unless it was a JPEG."""
    if image.format == "JXL" and not getattr(image, "jpeg", False):
        return None
    return _TURNS.get(cast(int, image.getexif().get(_ORIENTATION)))


def _in_srgb(image: Image.Image, profile: bytes | None, *, grey: bool) -> tuple[Image.Image, dict[str, bool]]:
    """Return the picture in the colours of sRGB, transparent as before, and which of `CONVERSIONS` that was."""
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
    """How the values of a grey picture of more than 8 bits are to be read."""

    twelve: bool
    """12 bits, spread on 16 here, as Pillow does with those of PGM and JPEG 2000."""
    unsigned: bool
    """32 bits without a sign, which Pillow takes for ones with a sign."""
    inverted: bool
    """White is the lowest, which Pillow heeds in 8 bits only."""

    @classmethod
    def of(cls, image: Image.Image) -> _Deep | None:
        """Return it by what the header says; None for a picture of 8 bits or of colours."""
        if not (image.mode.startswith("I") or image.mode == "F"):
            return None
        tags = getattr(image, "tag_v2", {})
        return cls(
            twelve="I;12" in str(getattr(image, "tile", "")),
            unsigned=image.mode == "I" and tags.get(_TIFF_BITS) == (32,) and tags.get(_TIFF_SAMPLES, (1,)) == (1,),
            inverted=tags.get(_TIFF_PHOTOMETRIC) == 0,
        )

    def values(self, image: Image.Image) -> Values:
        """Return `(H, W)` numbers."""
        values = np.asarray(image)
        if self.twelve:
            return (values * (TOP / 4095)).round().astype(np.uint16)
        return values.view(np.uint32) if self.unsigned else values


def values_of(image: Image.Image) -> Values | None:
    """Return the values `(H, W)` of a grey picture of more than 8 bits; None, and nothing decoded, for any other."""
    deep = _Deep.of(image)
    return None if deep is None else deep.values(image)


def _eight_bits(values: Values, clear: object, levels: Levels, *, inverted: bool) -> Image.Image:
    """Return values as a picture of 8 bits, grey or, where one value stands for transparent, grey and alpha."""
    shown = levels(values)
    grey = Image.fromarray(255 - shown if inverted else shown)
    if clear is not None:
        grey.putalpha(Image.fromarray(np.where(values == clear, 0, 255).astype(np.uint8)))
    return grey


def tensor_of(opened: Image.Image, levels: Levels = FULL) -> tuple[Tensor, PictureFacts]:
    """Return `(3, H, W)` uint8 of a picture that was opened, as `convert` makes it, and what it was."""
    if (plain := _plain_jpeg(opened)) is not None:
        return plain, PictureFacts()
    picture, facts = convert(opened, levels)
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1), facts


def _plain_jpeg(image: Image.Image) -> Tensor | None:
    """Return the pixels of a sound JPEG that needs no conversion, straight from libjpeg; None for any other picture.

    They are Pillow's, bit for bit, in three quarters of its time. What libjpeg so much as warns of is left for Pillow
    to judge.
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
