"""Which files are pictures, by their names, and what reads them: Pillow, and its plugins where they are installed."""

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
"""Formats that hold one raster picture, whose decoder is Pillow's own and runs no program, and whose suffix means
nothing else: no PostScript, PDF or WMF; no stubs (HDF5, GRIB); no `.rgb`, `.raw`, `.fit`, `.im`, `.ras`, `.vst`."""
_NO_SIGNATURE = ("TGA",)  # anything may look like one, so only a file that is called so is taken for one
_PLUGINS: dict[str, tuple[str, str | None, dict[str, tuple[str, ...]]]] = {
    "pillow-heif": ("pillow_heif", "register_heif_opener", {"HEIF": (".heic", ".heif", ".hif")}),
    "pillow-jxl-plugin": ("pillow_jxl", None, {"JXL": (".jxl",)}),
}
"""By the name of the package: its module, what registers it if the import does not, and what it reads."""
_CONVERTED = "a conversion to PNG or TIFF"
_UNREAD = {
    **dict.fromkeys((".cr2", ".cr3", ".nef", ".arw", ".dng", ".orf", ".rw2", ".raf", ".pef", ".srw"), _CONVERTED),
    **dict.fromkeys((".svg", ".eps", ".ps", ".pdf", ".wmf", ".emf", ".psd", ".xcf", ".ai"), _CONVERTED),
    **dict.fromkeys((".exr", ".hdr", ".dcm", ".dicom", ".fits", ".nii", ".czi", ".lif", ".nd2", ".svs"), _CONVERTED),
    **dict.fromkeys((".ras", ".dds", ".xbm", ".xpm", ".icns", ".cur", ".pcd", ".heics", ".avifs"), _CONVERTED),
}
"""Pictures by their names that nothing here reads: raw data of cameras, drawings, layers, and what labs write."""


def _register() -> dict[str, tuple[str, ...]]:
    """Return the suffixes of every format that can be read, plugins that are installed among them."""
    found = dict(_PILLOW)
    for module, register, formats in _PLUGINS.values():
        if find_spec(module):
            plugin = import_module(module)
            if register:
                getattr(plugin, register)()
            found |= formats
    return found


FORMATS = _register()
"""The suffixes of every format that can be read, by Pillow's name of it."""
SUFFIXES = tuple(suffix for suffixes in FORMATS.values() for suffix in suffixes)


def readable_with(suffix: str) -> str | None:
    """Return what would read a picture with that suffix, in any case; None if all is there, or if it is no picture."""
    suffix = suffix.lower()
    if suffix in SUFFIXES:
        return None
    for package, (_, _, formats) in _PLUGINS.items():
        if any(suffix in suffixes for suffixes in formats.values()):
            return f"{package} (pip install 'frostline[formats]')"
    return _UNREAD.get(suffix)


def libraries() -> list[str]:
    """Return what decodes pictures beside Pillow itself, with versions."""
    return [f"{name} {version(name)}" for name, (module, _, _) in _PLUGINS.items() if find_spec(module)]


def candidates(file: Path | None = None) -> list[str]:
    """Return the formats that a file may have whatever it is called, and PostScript, which is then refused by name."""
    Image.init()
    suffix = file.suffix.lower() if file else ""
    known = [name for name, suffixes in FORMATS.items() if name not in _NO_SIGNATURE or suffix in suffixes]
    return [name for name in (*known, "EPS") if name in Image.OPEN]
