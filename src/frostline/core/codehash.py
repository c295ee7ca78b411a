"""The hash of the code that computes something, found by following its imports: a part of the key of what is kept.

A module decides the bits of what it computes, and so does every module that it imports, at the top or inside a
function, unless it is known to decide none. What is forgotten here is computed anew too often, never too seldom.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import re
from collections.abc import Iterator
from pathlib import Path

from frostline.core import project

_REASONS = {
    "makes keys": ("core.codehash", "store.hashing"),
    "the settings that decide something stand in the key": ("core.config", "core.config_keys"),
    "what people are told": ("core.errors",),
    "when something stops, not what it gives": ("core.interrupts",),
    "when a setting is taken back": ("core.shared_context",),
    "threads, determinism, precision, device and libraries stand in the key": ("core.machine",),
    "how much room there is": ("core.memory",),
    "which settings are refused": ("core.validation",),
    "what classes are called": ("data.class_names",),
    "the code of a plugin stands in the key": ("core.plugins",),
    "which pictures are alike, of those that stand in the key": ("data.duplicates",),
    "which bytes there are; the files that hold them stand in the key": ("data.hub", "data.hub_pictures"),
    "which bytes there are; their places and files stand in the key": ("data.remote_files", "data.shards"),
    "which class has which number": ("data.numbered_classes",),
    "what people should know": ("data.findings",),
    "which files there are; they stand in the key": ("data.listing",),
    "which pictures have labels; they stand in the key": ("data.label_columns",),
    "which folder is which; the files stand in the key": ("data.layouts",),
    "the digest of a split's pixels, sizes and ids stands in the key": (
        *("data.splits", "data.loading", "data.broken_pictures"),
    ),
    "which pictures are of which split; their files stand in the key": ("data.split_names", "data.times"),
    "which files there are and what they are called; the files stand in the key": ("data.tables",),
    "what is no picture": ("data.leftovers",),
    "what people are shown": ("data.names", "records.result"),
    "the digest of a split stands for the pixels that are decoded anew": ("data.decode_on_demand",),
    "the bytes of the weights stand in the key": ("models.weights",),
    "what files are called": ("records.layout",),
    "puts together what others make of settings that stand in the key": ("runs.run_data", "runs.setup"),
    "what is read is what was written, by its checksums": ("store.entries",),
    "where bytes lie": (
        *("store.mapped", "store.ragged", "store.rows", "store.device_budget", "store.store", "store.writer"),
    ),
    "when something is fetched, not what": ("store.prefetch",),
    "what is done already, of what stands in the key": ("store.unfinished",),
    "hands out batches; pixels are decoded singly, features computed in batches of one size": ("training.dataset",),
    "scores what others compute": ("training.evaluation",),
    "what happens above the frost line": ("training.steps",),
}
DECIDE_NONE = {name: reason for reason, names in _REASONS.items() for name in names}
"""Modules that change no bit of what is kept, each with the reason; nothing behind them is looked at."""
_IMPORT = re.compile(
    r"^[ \t]*(?:from frostline[\w.]* import (?:\([^)]*\)|[^(\n]+)|import frostline[^\n]*)", re.MULTILINE
)


@functools.cache
def of(*modules: str) -> str:
    """Return the sha256 (hex) over the source of `modules` and of all modules that decide what they compute."""
    code = hashlib.sha256()
    for name in sorted(deciding(*modules)):
        code.update(name.encode() + b"\0" + _file(name).read_bytes())
    return code.hexdigest()


def deciding(*modules: str) -> set[str]:
    """Return the names within the package of `modules` and of what they import, but for what decides none."""
    found, waiting = set[str](), list(modules)
    while waiting:
        if (name := waiting.pop()) not in found:
            found.add(name)
            waiting += [other for other in _imports(_file(name)) if other not in DECIDE_NONE]
    return found


def _file(module: str) -> Path:
    return project.PACKAGE.joinpath(*module.split(".")).with_suffix(".py")


def _imports(path: Path) -> Iterator[str]:
    """Yield the modules of the package that a file imports anywhere, by their names within it.

    Its imports alone are parsed: the whole of it would take longer than to read the features that it is about.
    """
    prefix = "frostline."
    for statement in _IMPORT.findall(path.read_text()):
        node = ast.parse(statement.strip()).body[0]
        assert isinstance(node, ast.Import | ast.ImportFrom)
        names = [alias.name for alias in node.names]
        if isinstance(node, ast.ImportFrom):
            names = [node.module or "", *(f"{node.module}.{name}" for name in names)]
        for name in names:
            if name.startswith(prefix) and _file(name.removeprefix(prefix)).is_file():
                yield name.removeprefix(prefix)
