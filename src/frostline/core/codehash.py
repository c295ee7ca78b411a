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

DECIDE_NONE = {
    "core.codehash": "makes keys",
    "core.config": "the settings that decide something stand in the key",
    "core.config_keys": "the settings that decide something stand in the key",
    "core.errors": "what people are told",
    "core.interrupts": "when something stops, not what it gives",
    "core.machine": "threads, determinism, precision, device and libraries stand in the key",
    "core.validation": "which settings are refused",
    "data.class_names": "what classes are called",
    "core.plugins": "the code of a plugin stands in the key",
    "data.duplicates": "which pictures are alike, of those that stand in the key",
    "data.hub": "which bytes there are; the files that hold them stand in the key",
    "data.hub_pictures": "which bytes there are; the files that hold them stand in the key",
    "data.shards": "which bytes there are; their places and files stand in the key",
    "data.numbered_classes": "which class has which number",
    "data.findings": "what people should know",
    "data.listing": "which files there are; they stand in the key",
    "data.label_columns": "which pictures have labels; they stand in the key",
    "data.layouts": "which folder is which; the files stand in the key",
    "data.splits": "the digest of a split's pixels, sizes and ids stands in the key",
    "data.split_names": "which pictures are of which split; their files stand in the key",
    "data.tables": "which files there are and what they are called; the files stand in the key",
    "data.times": "which pictures are of which split; their files stand in the key",
    "data.leftovers": "what is no picture",
    "data.loading": "the digest of a split's pixels, sizes and ids stands in the key",
    "data.names": "what people are shown",
    "data.decode_on_demand": "the digest of a split stands for the pixels that are decoded anew",
    "models.weights": "the bytes of the weights stand in the key",
    "records.layout": "what files are called",
    "records.result": "what people are shown",
    "runs.run_data": "puts together what others make of settings that stand in the key",
    "runs.setup": "puts together what others make of settings that stand in the key",
    "store.entries": "what is read is what was written, by its checksums",
    "store.hashing": "makes keys",
    "store.mapped": "where bytes lie",
    "store.prefetch": "when something is fetched, not what",
    "store.ragged": "where bytes lie",
    "store.rows": "where bytes lie",
    "store.device_budget": "where bytes lie",
    "store.store": "where bytes lie",
    "store.unfinished": "what is done already, of what stands in the key",
    "store.writer": "where bytes lie",
    "training.dataset": "hands out batches; pixels are decoded singly, features computed in batches of one size",
    "training.evaluation": "scores what others compute",
    "training.steps": "what happens above the frost line",
}
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
