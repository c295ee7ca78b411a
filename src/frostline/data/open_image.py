"""Open image files without decoding them, and reject files that are empty, damaged, too large or not images."""

from __future__ import annotations

import errno
import io
import os
import re
import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from PIL import Image, ImageFile, UnidentifiedImageError

from frostline.core.files import LFS_POINTER, expanded
from frostline.core.shared_context import shared
from frostline.data import remote_files
from frostline.data.image_formats import candidates

MISSING = "missing, or a broken link"
_JPEG_END = b"\xff\xd9"  # occurs nowhere else after the header
_PASSING = (
    *(errno.EACCES, errno.EPERM, errno.EMFILE, errno.ENFILE, errno.ENOMEM),
    *(errno.EIO, errno.EINTR, errno.ESTALE, errno.ETIMEDOUT),
)
"""Errors of the system for missing permissions, file handles, memory or responses, which may pass."""


def open_image(file: Path) -> Image.Image:
    """Return the image in `file`, not decoded yet; raises whatever Pillow raises if it is not an image.

    Damage that decoding does not notice is detected: in PNG by its checksums, in JPEG by its end marker.
    """
    status = file.stat()
    if not stat.S_ISREG(status.st_mode):  # opening a pipe would wait for ever
        if stat.S_ISDIR(status.st_mode):
            os.scandir(file).close()  # raises if it cannot be listed
            raise OSError("a folder")
        raise OSError("not a regular file")
    if status.st_size == 0:
        raise OSError("empty")
    return _opened(file, file)


def open_bytes(content: bytes, name: str) -> Image.Image:
    """Return the image with the bytes `content`, like `open_image` for a file called `name`."""
    if not content:
        raise OSError("empty")
    return _opened(io.BytesIO(content), Path(name))


def open_anywhere(place: str) -> Image.Image:
    """Return the image at a path or URL, like `open_image`; may raise any exception if it is missing or broken."""
    if remote_files.is_elsewhere(place):
        return open_bytes(remote_files.content(place), PurePosixPath(urlsplit(place).path).name)
    return open_image(expanded(place))


def _opened(source: Path | io.BytesIO, name: Path) -> Image.Image:
    try:
        image = Image.open(source, formats=candidates(name))
    except UnidentifiedImageError:
        if _is_lfs_pointer(source):
            raise OSError("a pointer of Git LFS, not fetched by `git lfs pull`") from None
        raise
    try:
        return _whole(image, source)
    except BaseException:
        image.close()
        raise


def _is_lfs_pointer(source: Path | io.BytesIO) -> bool:
    if isinstance(source, io.BytesIO):
        return source.getvalue().startswith(LFS_POINTER)
    with source.open("rb") as file:
        return file.read(len(LFS_POINTER)) == LFS_POINTER


def _whole(image: Image.Image, source: Path | io.BytesIO) -> Image.Image:
    """Return the image, reopened if need be; `OSError` or `SyntaxError` if it is damaged."""
    if image.format == "EPS":
        raise OSError("a PostScript program")  # Pillow would run it by Ghostscript
    if image.format == "PNG":
        image.verify()  # leaves the image unusable
        return Image.open(source, formats=("PNG",))
    if image.format in ("JPEG", "MPO") and isinstance(image, ImageFile.ImageFile) and image.fp is not None:
        header = image.fp.tell()
        image.fp.seek(-len(_JPEG_END), os.SEEK_END)
        if image.fp.read() != _JPEG_END:  # other data may follow the end marker
            image.fp.seek(header)
            if _JPEG_END not in image.fp.read():
                raise OSError("truncated: it has no end")
    return image


@shared
@contextmanager
def _limit_as_it_was() -> Iterator[None]:
    """Restore Pillow's size limit after the block, within which its warnings are off."""
    before = Image.MAX_IMAGE_PIXELS
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # large images, and odd EXIF fields that are not used here
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = before


@contextmanager
def at_most(pixels: int) -> Iterator[None]:
    """Make Pillow refuse images of more than `pixels`, by their headers, before it decodes them."""
    with _limit_as_it_was():
        Image.MAX_IMAGE_PIXELS = pixels / 2  # type: ignore[assignment]  # Pillow warns there, and refuses twice as many
        yield


def lift_limits() -> None:
    """Make Pillow accept images of any size without warnings: `at_most` was in force when they were first read."""
    Image.MAX_IMAGE_PIXELS = None
    warnings.filterwarnings("ignore", module="PIL")  # odd EXIF fields that are not used here


def is_passing(error: Exception) -> bool:
    """Return whether an image could not be read for a reason that may pass, or that concerns only this process."""
    return isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno in _PASSING)


def why(error: Exception) -> str:
    """Return in a few words why an image could not be read."""
    if isinstance(error, Image.DecompressionBombError):
        found = re.search(r"\((\d+) pixels", str(error))
        return f"{int(found[1]):,} pixels, more than data.max_pixels" if found else "too large"
    if isinstance(error, UnidentifiedImageError):
        return "not an image"
    if isinstance(error, FileNotFoundError):
        return MISSING
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(str(error).split()) or type(error).__name__
