"""A file becomes a picture that is not decoded yet: opened, unless it is none, too large, empty or damaged."""

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

from frostline.core.files import expanded
from frostline.core.shared_context import shared
from frostline.data import remote_files
from frostline.data.image_formats import candidates

_JPEG_END = b"\xff\xd9"  # nothing else behind the header reads like this
_PASSING = (
    *(errno.EACCES, errno.EPERM, errno.EMFILE, errno.ENFILE, errno.ENOMEM),
    *(errno.EIO, errno.EINTR, errno.ESTALE, errno.ETIMEDOUT),
)
"""What a system says where no rights, files, memory or answer can be had."""


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
    return _opened(file, file)


def open_bytes(content: bytes, name: str) -> Image.Image:
    """Return the picture that `content` is, as `open_image` does that in a file called `name`."""
    if not content:
        raise OSError("empty")
    return _opened(io.BytesIO(content), Path(name))


def open_anywhere(place: str) -> Image.Image:
    """Return the picture at a path or URL, as `open_image` does; raises anything where that is missing or broken."""
    if remote_files.is_elsewhere(place):
        return open_bytes(remote_files.content(place), PurePosixPath(urlsplit(place).path).name)
    return open_image(expanded(place))


def _opened(source: Path | io.BytesIO, name: Path) -> Image.Image:
    image = Image.open(source, formats=candidates(name))
    try:
        return _whole(image, source)
    except BaseException:
        image.close()
        raise


def _whole(image: Image.Image, source: Path | io.BytesIO) -> Image.Image:
    """Return the picture, opened anew if need be; `OSError` or `SyntaxError` where it is damaged."""
    if image.format == "EPS":
        raise OSError("a PostScript program")  # Pillow would have Ghostscript run it
    if image.format == "PNG":
        image.verify()  # leaves the picture unusable
        return Image.open(source, formats=("PNG",))
    if image.format in ("JPEG", "MPO") and isinstance(image, ImageFile.ImageFile) and image.fp is not None:
        header = image.fp.tell()
        image.fp.seek(-len(_JPEG_END), os.SEEK_END)
        if image.fp.read() != _JPEG_END:  # which may have something behind it
            image.fp.seek(header)
            if _JPEG_END not in image.fp.read():
                raise OSError("truncated: it has no end")
    return image


@shared
@contextmanager
def _limit_as_it_was() -> Iterator[None]:
    """Take back what the block tells Pillow, which says nothing in it."""
    before = Image.MAX_IMAGE_PIXELS
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of large pictures, and of EXIF that is odd in what we do not ask for
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = before


@contextmanager
def at_most(pixels: int) -> Iterator[None]:
    """Make Pillow refuse pictures of more `pixels`, by what their headers say, before it decodes them."""
    with _limit_as_it_was():
        Image.MAX_IMAGE_PIXELS = pixels / 2  # type: ignore[assignment]  # Pillow warns there, and refuses twice as many
        yield


def lift_limits() -> None:
    """Have Pillow take pictures of any size without a word from now on: `at_most` held when they were first read."""
    Image.MAX_IMAGE_PIXELS = None
    warnings.filterwarnings("ignore", module="PIL")  # of EXIF that is odd in what we do not ask for


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
