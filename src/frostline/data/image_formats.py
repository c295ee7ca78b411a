"""Image formats by file suffix, and their readers: Pillow, and its plugins if installed."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from PIL import Image

_PILLOW = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "MPO": (".mpo",),
    "JPEG2000": (".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx"),
    "PNG": (".png", ".apng"),
    "WEBP": (".webp",),
    "AVIF": (".avif",),
    "TIFF": (".tif", ".tiff"),
    "BMP": (".bmp",),
    "DIB": (".dib",),
    "GIF": (".gif",),
    "ICO": (".ico",),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm", ".pfm"),
    "TGA": (".tga",),
    "PCX": (".pcx",),
    "QOI": (".qoi",),
    "SGI": (".sgi",),
}
"""Formats of a single raster image, with Pillow's own decoder, which runs no program, and an unambiguous suffix: no
PostScript, PDF or WMF; no stubs (HDF5, GRIB); no `.rgb`, `.raw`, `.fit`, `.im`, `.ras`, `.vst`."""
_NO_SIGNATURE = ("TGA",)  # any content may look like it, so only files with its suffix are read as TGA
_PLUGINS: dict[str, tuple[str, str | None, dict[str, tuple[str, ...]]]] = {
    "pillow-heif": ("pillow_heif", "register_heif_opener", {"HEIF": (".heic", ".heif", ".hif")}),
    "pillow-jxl-plugin": ("pillow_jxl", None, {"JXL": (".jxl",)}),
}
"""By package name: its module, the function that registers it if the import does not, and the formats that it reads."""
_UNREAD = (
    ".cr2 .cr3 .nef .arw .dng .orf .rw2 .raf .pef .srw .svg .eps .ps .pdf .wmf .emf .psd .xcf .ai .exr .hdr .dcm "
    ".dicom .fits .nii .czi .lif .nd2 .svs .ras .dds .xbm .xpm .icns .cur .pcd .heics .avifs"
)
"""Suffixes of images that cannot be read here: camera raw data, vector graphics, layered and scientific formats."""


def _register() -> dict[str, tuple[str, ...]]:
    """Register installed plugins, and return the suffixes of every readable format."""
    found = dict(_PILLOW)
    for module, register, formats in _PLUGINS.values():
        if find_spec(module):
            plugin = import_module(module)
            if register:
                getattr(plugin, register)()
            found |= formats
    return found


FORMATS = _register()
"""Suffixes of every readable format, by Pillow's name of the format."""
SUFFIXES = tuple(suffix for suffixes in FORMATS.values() for suffix in suffixes)


def readable_with(suffix: str) -> str | None:
    """Return what is needed to read an image with this suffix; None if it is readable already, or not an image."""
    suffix = suffix.lower()
    if suffix in SUFFIXES:
        return None
    for package, (_, _, formats) in _PLUGINS.items():
        if any(suffix in suffixes for suffixes in formats.values()):
            return f"{package} (pip install 'frostline[formats]')"
    return "a conversion to PNG or TIFF" if suffix in _UNREAD.split() else None


def libraries() -> list[str]:
    """Return name and version of each installed Pillow plugin."""
    return [f"{name} {version(name)}" for name, (module, _, _) in _PLUGINS.items() if find_spec(module)]


def candidates(file: Path) -> list[str]:
    """Return the formats to try for a file, whatever its suffix, and PostScript, which is then refused by name."""
    Image.init()
    suffix = file.suffix.lower()
    known = [name for name, suffixes in FORMATS.items() if name not in _NO_SIGNATURE or suffix in suffixes]
    return [name for name in (*known, "EPS") if name in Image.OPEN]
