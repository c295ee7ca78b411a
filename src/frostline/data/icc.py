"""Colours become those of sRGB, from which networks have learned, where a picture's ICC profile says otherwise."""

from __future__ import annotations

from functools import lru_cache
from io import BytesIO

import numpy as np
from PIL import Image, ImageCms

_SAME = 2  # levels: sRGB profiles of different makers differ by one or two from each other
_MODES = {"RGB ": "RGB", "GRAY": "L", "CMYK": "CMYK", "Lab ": "LAB"}
"""The mode of a picture that a profile speaks of, by the profile's colour space."""


class BadProfile(ValueError):
    """An ICC profile that cannot be read, or speaks of another kind of colours than the picture has."""


def is_srgb(profile: bytes) -> bool:
    """Return whether colours of that profile are those of sRGB, by what it does to them; False for a broken one."""
    try:
        mode, transform = _transform(profile)
    except BadProfile:
        return False
    return mode == "RGB" and transform is None


def to_srgb(image: Image.Image, profile: bytes) -> Image.Image:
    """Return an `L`, `RGB`, `CMYK` or `LAB` picture in sRGB: the same where it is so already, grey ones as grey.

    Raises `BadProfile`.
    """
    mode, transform = _transform(profile)
    if image.mode != mode:
        if (image.mode, mode) != ("L", "RGB"):
            raise BadProfile(f"a profile of {mode} in a picture of {image.mode}")
        image = image if transform is None else image.convert("RGB")
    if transform is None:
        return image
    converted = ImageCms.applyTransform(image, transform)
    assert converted is not None  # only a picture changed in place gives none
    return converted.getchannel("G") if mode == "L" else converted


def lab_profile() -> bytes:
    """Return the profile of pictures in CIELAB, which need none of their own."""
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()


@lru_cache(maxsize=64)
def _transform(profile: bytes) -> tuple[str, ImageCms.ImageCmsTransform | None]:
    """Return the mode of the pictures that a profile is for, and what makes them sRGB, None if nothing need be done.

    Threads share it: Little CMS allows that where its cache of one pixel is off.
    """
    try:
        source = ImageCms.ImageCmsProfile(BytesIO(profile))
        mode = _MODES[source.profile.xcolor_space]
        target = ImageCms.createProfile("sRGB")
        transform = ImageCms.buildTransform(source, target, mode, "RGB", flags=ImageCms.Flags.NOCACHE)
    except (ImageCms.PyCMSError, OSError, KeyError) as error:
        raise BadProfile(" ".join(str(error).split())) from error
    return mode, None if _changes_nothing(mode, transform) else transform


def _changes_nothing(mode: str, transform: ImageCms.ImageCmsTransform) -> bool:
    if mode not in ("L", "RGB"):
        return False
    steps = np.arange(256, dtype=np.uint8)
    grid = np.stack(np.meshgrid(*[steps[::15]] * 3), axis=-1).reshape(1, -1, 3) if mode == "RGB" else steps[None]
    converted = np.asarray(ImageCms.applyTransform(Image.fromarray(grid), transform)).astype(int)
    return bool(np.abs(converted - (grid if mode == "RGB" else grid[..., None])).max() <= _SAME)
