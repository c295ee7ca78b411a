"""Convert images with an ICC profile to sRGB, the colour space that networks were trained on."""

from __future__ import annotations

from functools import lru_cache
from io import BytesIO

import numpy as np
from PIL import Image, ImageCms

_SAME = 2  # levels: sRGB profiles of different makers differ by one or two from each other
_MODES = {"RGB ": "RGB", "GRAY": "L", "CMYK": "CMYK", "Lab ": "LAB"}
"""Pillow's mode for the colour space of a profile."""


class BadProfile(ValueError):
    """An ICC profile that cannot be read, or is for another kind of colours than the image has."""


def is_srgb(profile: bytes) -> bool:
    """Return whether a profile equals sRGB, judged by its effect on colours; False for a broken one."""
    try:
        mode, transform = _transform(profile)
    except BadProfile:
        return False
    return mode == "RGB" and transform is None


def to_srgb(image: Image.Image, profile: bytes) -> Image.Image:
    """Return an `L`, `RGB`, `CMYK` or `LAB` image in sRGB; the same object if it is sRGB already; grey stays grey.

    Raises `BadProfile`.
    """
    mode, transform = _transform(profile)
    if image.mode != mode:
        if (image.mode, mode) != ("L", "RGB"):
            raise BadProfile(f"a profile of {mode} in an image of {image.mode}")
        image = image if transform is None else image.convert("RGB")
    if transform is None:
        return image
    converted = ImageCms.applyTransform(image, transform)
    assert converted is not None  # None is only returned for a conversion in place
    return converted.getchannel("G") if mode == "L" else converted


def lab_profile() -> bytes:
    """Return the profile of images in CIELAB, which need none of their own."""
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()


@lru_cache(maxsize=64)
def _transform(profile: bytes) -> tuple[str, ImageCms.ImageCmsTransform | None]:
    """Return the image mode of a profile, and the transform to sRGB, None if it changes nothing; raises `BadProfile`.

    Threads share the transform: Little CMS allows that if its one-pixel cache is off.
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
