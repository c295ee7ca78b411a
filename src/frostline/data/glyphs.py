"""Synthetic letters in the style of the embedded handwritten digits, for pretraining without downloads.

The digits of scikit-learn are 32x32 bitmaps of handwriting, in which every 4x4 block of cells was counted into one grey
pixel (Alpaydin and Kaynak 1998, doi:10.24432/C50P49). A glyph is made the same way: the outline of a letter in one of
Matplotlib's fonts is bent and drawn with a pen of random width onto cells, and the cells of each block are counted.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import matplotlib
import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage
from torch import Tensor
from torch.nn import functional

from frostline.core.randomness import derive_seed, uniform

# Lower case only where it differs from upper case by more than size (EMNIST's merged classes, arXiv:1702.05373).
LETTERS = tuple("ABCDEFGHIJKLMNOPQRSTUVWXYZabdefghijmnqrty")
# Text faces only: the symbol and size-variant faces lack letters.
FACES = ("DejaVuSans", "DejaVuSerif", "STIXGeneral", "cmb10", "cmmi10", "cmr10", "cmss10", "cmti10", "cmtt10")

_OUTLINE = 64  # side of an outline
_BODY = 44  # height, and greatest width, of the letter on it
_CELLS = 4  # cells per side of a pixel
_KNOTS = 4  # knots per side of the field that bends a letter
_CHUNK = 256  # images drawn at once: bounds the memory, changes no bit


@lru_cache(maxsize=1)
def render(*, images_per_class: int, seed: int, size: int) -> Tensor:
    """Return `(N, 3, size, size)` uint8: bright ink on black.

    Image i shows letter `i % len(classes)` and depends only on `seed` and `i`, so a smaller set is the beginning of a
    larger one.
    """
    outlines = _outlines()
    ids = torch.arange(images_per_class * len(LETTERS))
    grey = torch.cat([_draw(outlines, part, derive_seed(seed, "glyphs"), size) for part in torch.split(ids, _CHUNK)])
    return grey.expand(-1, 3, -1, -1).contiguous()


def labels(images_per_class: int) -> Tensor:
    """Return `(N,)` int64: the index in `LETTERS` of each image's letter."""
    return torch.arange(images_per_class * len(LETTERS)) % len(LETTERS)


def _outlines() -> Tensor:
    """Return `(faces, letters, 64, 64)` float32: signed distance to each letter's outline, positive inside."""
    folder = Path(matplotlib.get_data_path(), "fonts", "ttf")
    files = sorted(file for file in folder.glob("*.ttf") if file.stem.startswith(FACES) and "Display" not in file.stem)
    fonts = [ImageFont.truetype(str(file), 160) for file in files]
    return torch.stack([torch.stack([_outline(font, letter) for letter in LETTERS]) for font in fonts])


def _outline(font: ImageFont.FreeTypeFont, letter: str) -> Tensor:
    page = Image.new("L", (400, 400))
    ImageDraw.Draw(page).text((200, 200), letter, fill=255, font=font, anchor="mm")
    body = page.crop(page.getbbox())
    body = body.resize((min(_BODY, round(body.width * _BODY / body.height)), _BODY), Image.Resampling.BOX)
    square = Image.new("L", (_OUTLINE, _OUTLINE))
    square.paste(body, ((_OUTLINE - body.width) // 2, (_OUTLINE - body.height) // 2))
    ink = np.asarray(square) >= 128
    inside, outside = ndimage.distance_transform_edt(ink), ndimage.distance_transform_edt(~ink)
    return torch.from_numpy(inside - outside).float()


def _draw(outlines: Tensor, ids: Tensor, seed: int, size: int) -> Tensor:
    """Return `(B, 1, size, size)` uint8; each image depends only on its own draws."""
    faces, letters = outlines.shape[:2]
    draws = uniform(seed, ids, 10 + 2 * _KNOTS**2)
    face, bend, pen, grain = draws[:, 0], draws[:, 7], draws[:, 8], draws[:, 9]
    outline = outlines[(face * faces).long(), ids % letters][:, None]
    places = _places(draws[:, 1:7], size * _CELLS) + _bend(draws[:, 10:], bend, size * _CELLS)
    distance = functional.grid_sample(outline, places, padding_mode="border", align_corners=False)
    grey = functional.avg_pool2d(_ink(outline, distance, pen), _CELLS)
    noise = uniform(derive_seed(seed, "noise"), ids, size * size).view_as(grey) - 0.5
    grey = grey + noise * _between(grain, 0, 0.1) * (grey > 0)
    return (grey.clamp(0, 1) * 16).round().mul(255 / 16).round().to(torch.uint8)


def _places(shape: Tensor, cells: int) -> Tensor:
    """Return `(B, cells, cells, 2)`: sampling positions on the outline, rotated, slanted, stretched and shifted.

    The ranges (radians, and fractions of half a side) were set by eye to match the digits, which fill the height of
    their image and about two thirds of its width.
    """
    angle, slant = _between(shape[:, 0], -0.25, 0.25), _between(shape[:, 1], -0.35, 0.35)
    tall, wide = _between(shape[:, 2], 0.9, 1.1), _between(shape[:, 3], 0.55, 1.0)
    down, right = _between(shape[:, 4], -0.07, 0.07), _between(shape[:, 5], -0.12, 0.12)
    centre = (torch.arange(cells) * 2 + 1) / cells - 1
    y, x = centre[:, None] - down, centre - right
    x, y = x * angle.cos() + y * angle.sin(), y * angle.cos() - x * angle.sin()
    places = torch.stack([(x + slant * y) / wide, y / tall], dim=-1)
    return places[:, 0] * (_BODY / _OUTLINE)


def _bend(draws: Tensor, strength: Tensor, cells: int) -> Tensor:
    """Return `(B, cells, cells, 2)`: a smooth random displacement (Simard 2003, doi:10.1109/ICDAR.2003.1227801)."""
    knots = (draws.view(-1, 2, _KNOTS, _KNOTS) - 0.5) * _between(strength, 0, 0.45)
    field = functional.interpolate(knots, size=(cells, cells), mode="bicubic", align_corners=True)
    return field.permute(0, 2, 3, 1)


def _ink(outline: Tensor, distance: Tensor, pen: Tensor) -> Tensor:
    """Return `(B, 1, cells, cells)` in 0..1: thin faces drawn with a wider pen and bold ones with a finer pen."""
    half = outline.amax(dim=(2, 3), keepdim=True)  # half the width of the boldest stroke
    wider = (_between(pen, 3.5, 7.0) - half).clamp(min=-0.5 * half)  # fine strokes of a bold face must not vanish
    return (0.5 + distance + wider).clamp(0, 1)


def _between(draw: Tensor, low: float, high: float) -> Tensor:
    """Return `(B, 1, 1, 1)`: the draws from 0..1 as values from `low` to `high`, one per image."""
    return (low + (high - low) * draw).view(-1, 1, 1, 1)
