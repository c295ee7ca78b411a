"""A picture becomes pixels: any file and mode that Pillow knows to upright 8-bit RGB, and what was done to it."""

from __future__ import annotations

import errno
import os
import re
import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageFile, UnidentifiedImageError
from simplejpeg import decode_jpeg
from torch import Tensor

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".avif", ".tif", ".tiff")
CONVERSIONS = ("upright", "first_frame", "sixteen_bits", "palette", "cmyk", "grayscale", "alpha")
"""What may have been done to a picture: turned as its EXIF says; of an animation the first frame taken; 16 bits scaled
to 8; colours of a palette, ink (CMYK) or shades of grey made RGB; laid on white where it is transparent."""

_ORIENTATION = 0x0112
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

_JPEG_END = b"\xff\xd9"  # nothing else behind the header reads like this
_PASSING = (
    *(errno.EACCES, errno.EPERM, errno.EMFILE, errno.ENFILE, errno.ENOMEM),
    *(errno.EIO, errno.EINTR, errno.ESTALE, errno.ETIMEDOUT),
)
"""What a system says where no rights, files, memory or answer can be had."""


@dataclass(frozen=True)
class Listing:
    """What lies below a folder."""

    files: list[Path] = field(default_factory=list)
    """Everything that is called like a picture, sorted, and folders that cannot be listed."""
    hidden: int = 0
    """Files and folders left out since their names begin with a dot, macOS `._*` among them."""
    other: int = 0
    """Files left out since they are not called like a picture."""


def survey(folder: Path) -> Listing:
    """Return what lies below `folder`, links to folders followed once, and never back to a folder that it lies in."""
    files: list[Path] = []
    hidden, other = 0, 0
    seen = {_identity(above) for above in folder.resolve().parents}

    def unlisted(error: OSError) -> None:
        files.append(Path(error.filename))

    for top, folders, names in os.walk(folder, followlinks=True, onerror=unlisted):
        place = Path(top)
        identity = _identity(place)
        visible = [name for name in names if not is_hidden(name)]
        hidden += len(names) - len(visible) + sum(map(is_hidden, folders))
        folders[:] = [name for name in folders if not is_hidden(name)] if identity not in seen else []
        if identity in seen:
            continue
        seen.add(identity)
        pictures = [place / name for name in (*visible, *folders) if name.lower().endswith(SUFFIXES)]
        files += pictures
        other += sum(not name.lower().endswith(SUFFIXES) for name in visible)
    return Listing(sorted(files), hidden, other)


def is_hidden(name: str) -> bool:
    """Return whether a file or folder of that name is no picture: a dot file, or what macOS puts into archives."""
    return name.startswith(".") or name == "__MACOSX"


def _identity(folder: Path) -> tuple[int, int]:
    """Return what tells a folder from others, by whatever links it was reached."""
    status = folder.stat()
    return status.st_dev, status.st_ino


def list_images(folder: Path) -> list[Path]:
    """Return the image files below `folder`, sorted; hidden ones, macOS `._*` among them, and other files left out."""
    return survey(folder).files


def open_image(file: Path) -> Image.Image:
    """Return the picture in `file`, not decoded yet; raises whatever Pillow raises where it is none.

    Damage is looked for that decoding does not notice: in PNG by its checksums, in JPEG by its end.
    """
    status = file.stat()
    if not stat.S_ISREG(status.st_mode):  # to open a pipe would wait for ever
        if stat.S_ISDIR(status.st_mode):
            os.scandir(file).close()  # may say that it cannot be listed
            raise OSError("a folder")
        raise OSError("not a regular file")
    if status.st_size == 0:
        raise OSError("empty")
    image = Image.open(file)
    try:
        return _whole(image, file)
    except BaseException:
        image.close()
        raise


def _whole(image: Image.Image, file: Path) -> Image.Image:
    """Return the picture, opened anew if need be; `OSError` or `SyntaxError` where it is damaged."""
    if image.format == "EPS":
        raise OSError("a PostScript program")  # Pillow would have Ghostscript run it
    if image.format == "PNG":
        image.verify()  # leaves the picture unusable
        return Image.open(file)
    if image.format in ("JPEG", "MPO") and isinstance(image, ImageFile.ImageFile) and image.fp is not None:
        header = image.fp.tell()
        image.fp.seek(-len(_JPEG_END), os.SEEK_END)
        if image.fp.read() != _JPEG_END:  # which may have something behind it
            image.fp.seek(header)
            if _JPEG_END not in image.fp.read():
                raise OSError("truncated: it has no end")
    return image


def read_image(file: Path) -> Image.Image:
    """Return the picture in `file` as RGB; `OSError` names the file where it is missing, broken or no picture."""
    try:
        with open_image(file) as image:
            return decode(image)
    except Exception as error:  # a broken file makes Pillow raise anything
        raise OSError(f"{file}: {why(error)}") from error


def read_picture(file: Path) -> Tensor:
    """Return `(3, H, W)` uint8 of the picture in `file`; `OSError` names a file that is no sound picture."""
    try:
        with open_image(file) as image:
            return tensor_of(image)[0]
    except Exception as error:  # a broken file makes Pillow raise anything
        raise OSError(f"{file}: {why(error)}") from error


def decode(image: Image.Image) -> Image.Image:
    """Return the picture as RGB, upright by its EXIF orientation, on white where transparent, 16 bits scaled to 8."""
    return convert(image)[0]


def convert(image: Image.Image) -> tuple[Image.Image, int]:
    """Return the picture as `decode` does, and what was done: bit i stands for `CONVERSIONS[i]`."""
    mode = image.mode
    done = {
        "first_frame": getattr(image, "is_animated", False),
        "sixteen_bits": mode.startswith("I") or ";16" in str(getattr(image, "tile", "")),
        "upright": image.getexif().get(_ORIENTATION) in _TURNS,
        "palette": mode in ("P", "PA"),
        "cmyk": mode == "CMYK",
        "grayscale": mode in ("1", "L", "LA", "La", "F") or mode.startswith("I"),
        "alpha": image.has_transparency_data,
    }
    if done["upright"]:
        image.load()  # after which a TIFF is upright, and says so
        if (left := image.getexif().get(_ORIENTATION)) in _TURNS:
            image = image.transpose(_TURNS[left])
    if image.mode.startswith("I"):
        image = _eight_bits(image)
    if image.mode == "F":
        raise ValueError("floating point numbers, of which nothing says how bright they are")
    if done["alpha"]:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB"), sum(1 << i for i, name in enumerate(CONVERSIONS) if done[name])


def _eight_bits(image: Image.Image) -> Image.Image:
    """Return a picture of 16 bits as one of 8, grey or, where one shade stands for transparent, grey and alpha."""
    values, clear = np.asarray(image), image.info.get("transparency")
    if values.min() < 0 or values.max() > 65535:
        raise ValueError("numbers of more than 16 bits, of which nothing says how bright they are")
    grey = Image.fromarray((values / 257).round().astype(np.uint8))
    if clear is not None:
        grey.putalpha(Image.fromarray(np.where(values == clear, 0, 255).astype(np.uint8)))
    return grey


def tensor_of(image: Image.Image) -> tuple[Tensor, int]:
    """Return `(3, H, W)` uint8 of a picture that was opened, as `convert` makes it, and what that did."""
    if (plain := _plain_jpeg(image)) is not None:
        return plain, 0
    picture, done = convert(image)
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1), done


def _plain_jpeg(image: Image.Image) -> Tensor | None:
    """Return the pixels of a sound JPEG that needs no conversion, straight from libjpeg; None for any other picture.

    They are Pillow's, bit for bit, in three quarters of its time. What libjpeg so much as warns of is left for Pillow
    to judge.
    """
    source = getattr(image, "fp", None)
    if image.format != "JPEG" or image.mode != "RGB" or source is None or image.getexif().get(_ORIENTATION, 1) != 1:
        return None
    source.seek(0)
    try:
        return torch.from_numpy(decode_jpeg(source.read(), "RGB")).permute(2, 0, 1)
    except ValueError:
        return None


@contextmanager
def at_most(pixels: int) -> Iterator[None]:
    """Make Pillow refuse pictures of more `pixels`, by what their headers say, before it decodes them."""
    before = Image.MAX_IMAGE_PIXELS
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of large pictures, and of EXIF that is odd in what we do not ask for
        Image.MAX_IMAGE_PIXELS = pixels / 2  # type: ignore[assignment]  # Pillow warns there, and refuses twice as many
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = before


def is_passing(error: Exception) -> bool:
    """Return whether a picture could not be read for a reason that may pass or concerns this process alone."""
    return isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno in _PASSING)


def why(error: Exception) -> str:
    """Return in a few words why a picture could not be read."""
    if isinstance(error, Image.DecompressionBombError):
        found = re.search(r"\((\d+) pixels", str(error))
        return f"{int(found[1]):,} pixels, more than data.max_pixels" if found else "too large"
    if isinstance(error, UnidentifiedImageError):
        return "not a picture"
    if isinstance(error, FileNotFoundError):
        return "not there, or a link to nothing"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(str(error).split()) or type(error).__name__
