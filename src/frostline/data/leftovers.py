"""Report files among images that are left out because of their names: counts by kind, and how to make them readable."""

from __future__ import annotations

from collections.abc import Mapping

from frostline.data import image_formats
from frostline.data.names import counted

_ADVICE = {
    ".jfi .pjpeg": "JPEGs: rename them to .jpg",
    ".jxr .raw .npy .npz .mat .mha .nrrd": "save what they hold as PNG or TIFF",
    ".mp4 .mov .avi .mkv .mpg .mpeg .wmv .m4v .3gp .webm": "save their frames as images",
    ".zip .tar .gz .tgz .bz2 .xz .rar .7z": "unpack them",
    ".tfrecord .tfrecords .parquet .h5 .hdf5 .lmdb .mdb .pkl .pickle .pt .pth .arrow": "save their images as files",
}
_READER = {suffix: advice for suffixes, advice in _ADVICE.items() for suffix in suffixes.split()}
_HARMLESS = (
    ".txt .csv .tsv .json .jsonl .xml .yaml .yml .md .rst .html .htm .css .js .log .ini .cfg .toml .db .py .ipynb .sh "
    ".bat .url .lnk .doc .docx .xls .xlsx .odt .bib .sha256 .md5 .license .cat"
)
"""Suffixes of files that are never images; known names without a suffix are below."""
_HARMLESS_NAMES = {"license", "licence", "readme", "makefile", "authors", "citation", "copying", "notice"}
NO_SUFFIX = "(no suffix)"


def kind(name: str) -> str:
    """Return the kind under which a file is counted: its suffix in lower case, or `NO_SUFFIX`."""
    stem, dot, suffix = name.rpartition(".")
    if dot and stem and suffix and len(suffix) <= 12 and not any(sign.isspace() for sign in suffix):
        return f".{suffix.lower()}"
    return name.lower() if name.lower() in _HARMLESS_NAMES else NO_SUFFIX


def describe(counts: Mapping[str, int]) -> str | None:
    """Return a line about files left out because of their names, with advice; None if all are harmless."""
    odd = {
        name: count for name, count in counts.items() if name not in _HARMLESS.split() and name not in _HARMLESS_NAMES
    }
    if not odd:
        return None
    each = [f"{count:,} {name}{_advice(name)}" for name, count in sorted(odd.items(), key=lambda item: -item[1])]
    first = ", ".join(each[:6]) + (f" and {len(each) - 6} other kinds" if len(each) > 6 else "")
    files = counted(sum(odd.values()), "file is", "files are")
    return f"{files} left out, without the suffix of a readable image: {first}"


def _advice(suffix: str) -> str:
    if suffix == NO_SUFFIX:
        return " (images? add their suffix)"
    reader = image_formats.readable_with(suffix)
    if reader is not None:
        return f" (needs {reader})"
    return f" ({_READER[suffix]})" if suffix in _READER else ""
