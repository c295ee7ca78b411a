"""Pictures become one tensor: any PIL mode to RGB, upright, all of one size."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from frostline.config import user_error

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".avif", ".tif", ".tiff")


def list_images(folder: Path) -> list[Path]:
    """Return the image files below `folder`, sorted; hidden ones, macOS `._*` among them, and other files left out."""
    files = (file for file in folder.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file())
    return sorted(file for file in files if not any(part.startswith(".") for part in file.relative_to(folder).parts))


def read_image(file: Path) -> Image.Image:
    """Return the decoded picture in `file`; `OSError` names the file where it is missing, broken or no picture."""
    try:
        with Image.open(file) as image:
            return decode(image)
    except (OSError, SyntaxError, ValueError) as error:  # Pillow raises any of them, often without the name
        raise OSError(f"{file}: {error}") from error


def decode(image: Image.Image) -> Image.Image:
    """Return the picture as RGB, upright by its EXIF orientation, on white where transparent, 16 bits scaled to 8."""
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):
        image = Image.fromarray((np.asarray(image).clip(0, 65535) / 257).round().astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def stack(count: int, read: Callable[[int], Image.Image], size: int | None) -> tuple[Tensor, Tensor]:
    """Return pixels `(count, 3, H, W)` uint8 and original sizes `(count, 2)` int32 (width, height).

    `read(i)` gives the i-th RGB picture. With `size` every picture is squashed to `(size, size)`, antialiased; without
    it all must be of one size, else `UserError`. Threads read side by side, since PIL releases the GIL.
    """
    side = (size, size) if size is not None else read(0).size
    pixels = np.empty((count, 3, side[1], side[0]), dtype=np.uint8)

    def place(index: int) -> tuple[int, int]:
        image = read(index)
        if size is not None or image.size == side:
            pixels[index] = np.asarray(image.resize(side, Image.Resampling.BILINEAR)).transpose(2, 0, 1)
        return image.size

    with ThreadPoolExecutor() as pool:
        sizes = list(pool.map(place, range(count)))
    if size is None and set(sizes) != {side}:
        raise user_error("data.decode_size", "null", f"a side in pixels, since the images differ: {_some(sizes)}")
    return torch.from_numpy(pixels), torch.tensor(sizes, dtype=torch.int32)


def _some(sizes: Iterable[tuple[int, int]]) -> str:
    names = [f"{width}x{height}" for width, height in sorted(set(sizes))]
    return ", ".join(names[:3]) + (" ..." if len(names) > 3 else "")
