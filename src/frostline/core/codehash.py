"""The hash of the code that computes a stored result, found by following its imports: part of the result's key.

A module decides the bits of its results, and so does every module that it imports, at the top or inside a function,
unless `_REASONS` exempts it. A missing exemption causes needless recomputation, never a stale result.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import re
from collections.abc import Container, Iterator
from pathlib import Path

from frostline.core import project

_REASONS = {
    "computes keys": ("core.codehash", "store.hashing"),
    "the settings that decide bits are in the key": ("core.config", "core.config_keys"),
    "messages to people": ("core.errors",),
    "when a computation stops, not its result": ("core.interrupts",),
    "when a setting is restored": ("core.shared_context",),
    "threads, determinism, precision, device and libraries are in the key": ("core.machine",),
    "amount of free memory": ("core.memory",),
    "which settings are refused": ("core.validation",),
    "the code of a plugin is in the key": ("core.plugins", "data.plugin_source"),
    "which images are duplicates; the images are in the key": ("data.duplicates",),
    "finds the bytes of images; the files that hold them are in the key": ("data.hub", "data.hub_images"),
    "finds the bytes of images; their offsets and files are in the key": ("data.remote_files", "data.shards"),
    "names and numbers of classes": ("data.numbered_classes",),
    "reports to people": ("data.findings",),
    "lists files, or finds none; they are in the key": ("data.listing", "data.roots"),
    "which images have labels; the images are in the key": ("data.label_columns",),
    "the role of each folder; the files are in the key": ("data.layouts",),
    "the digest of a split's pixels, sizes and ids is in the key": (
        *("data.splits", "data.loading", "data.broken_images"),
    ),
    "assigns images to splits; their files are in the key": ("data.split_names", "data.times"),
    "lists files and labels; the files are in the key": ("data.tables",),
    "which files are not images": ("data.leftovers",),
    "text for people": ("data.names", "records.result"),
    "the digest of a split stands for the pixels that are decoded again": ("data.decode_on_demand",),
    "the bytes of the weights are in the key": ("models.weights",),
    "names of files": ("records.layout",),
    "combines results of other modules; the settings are in the key": ("runs.run_data", "runs.setup"),
    "checksums ensure that the bytes read are the bytes written": ("store.entries",),
    "where bytes are stored": (
        *("store.mapped", "store.ragged", "store.rows", "store.device_budget", "store.store", "store.writer"),
    ),
    "when rows are read, not their content": ("store.prefetch",),
    "which part of an entry is done already; the entry is in the key": ("store.unfinished",),
    "makes batches; pixels are decoded one by one, features computed in batches of one size": ("training.dataset",),
    "scores predictions": ("training.evaluation",),
    "training above the frost line": ("training.steps",),
}
DECIDE_NONE = {name: reason for reason, names in _REASONS.items() for name in names}
"""Modules that change no bit of a stored result, each with the reason; their imports are not followed."""
_IMPORT = re.compile(
    r"^[ \t]*(?:from frostline[\w.]* import (?:\([^)]*\)|[^(\n]+)|import frostline[^\n]*)", re.MULTILINE
)


@functools.cache
def of(*modules: str) -> str:
    """Return the sha256 (hex) over the source of `modules` and of all modules that decide their results."""
    code = hashlib.sha256()
    for name in sorted(deciding(*modules)):
        code.update(name.encode() + b"\0" + _file(name).read_bytes())
    return code.hexdigest()


def deciding(*modules: str) -> set[str]:
    """Return the names, within the package, of `modules` and all their imports, without those in `DECIDE_NONE`."""
    return imported(*modules, without=DECIDE_NONE)


def imported(*modules: str, without: Container[str] = ()) -> set[str]:
    """Return the names, within the package, of `modules` and all their imports, which end at those in `without`."""
    found, waiting = set[str](), list(modules)
    while waiting:
        if (name := waiting.pop()) not in found:
            found.add(name)
            waiting += [other for other in _imports(_file(name)) if other not in without]
    return found


def _file(module: str) -> Path:
    return project.PACKAGE.joinpath(*module.split(".")).with_suffix(".py")


def _imports(path: Path) -> Iterator[str]:
    """Yield the names, within the package, of the modules that a file imports anywhere.

    Only import statements are parsed: to parse the whole file takes longer than to read the stored features.
    """
    prefix = "frostline."
    for statement in _IMPORT.findall(path.read_text(encoding="utf-8")):
        node = ast.parse(statement.strip()).body[0]
        assert isinstance(node, ast.Import | ast.ImportFrom)
        names = [alias.name for alias in node.names]
        if isinstance(node, ast.ImportFrom):
            names = [node.module or "", *(f"{node.module}.{name}" for name in names)]
        for name in names:
            if name.startswith(prefix) and _file(name.removeprefix(prefix)).is_file():
                yield name.removeprefix(prefix)
