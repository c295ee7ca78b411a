"""Base weights shared by many runs, stored once: a file with a run's learned tensors refers to its base by sha256.

This is the sha256 of `hashing.of_tensors`. It is known before the base is written if the weights come from a file, so a
run whose base exists already neither writes, reads nor hashes it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from weakref import WeakKeyDictionary

from torch import Tensor, nn

from frostline.core.config import BASES
from frostline.core.errors import UserError, first_line
from frostline.models import freezing
from frostline.models.state_dicts import within
from frostline.store import hashing, tensorfile

KEY = "base"
"""Metadata key of a file for the sha256 of its base weights, which are stored elsewhere."""
_SHA256 = re.compile(r"[0-9a-f]{64}")
_known: WeakKeyDictionary[nn.Module, str] = WeakKeyDictionary()
"""The sha256 of the base weights of networks."""


def belongs(name: str, heads: Sequence[str]) -> bool:
    """Return whether a tensor is part of the base weights: it belongs to no head and no adapter.

    Base weights are the same for all freeze modes, seeds of a new head and numbers of classes.
    """
    return not within(name, heads) and freezing.ADAPTER not in name.split(".")


def keep(module: nn.Module, heads: Sequence[str], folder: Path) -> str:
    """Write the base weights of a network to `folder`, unless they are there, and return their sha256.

    Nothing but the heads of `module` may have learned yet: its sha256 is computed once. Processes and hosts may call
    this concurrently; one of them writes the file, which appears whole or not at all.
    """
    digest = _known.get(module)
    if digest is None or not (folder / name_of(digest)).exists():
        state = module.state_dict(keep_vars=True)
        tensors = {name: tensor for name, tensor in state.items() if belongs(name, heads)}
        digest = _known[module] = _kept(tensors, folder)
    return digest


def _kept(tensors: Mapping[str, Tensor], folder: Path) -> str:
    digest = hashing.of_tensors(tensors)
    file = folder / name_of(digest)
    if not file.exists():
        from frostline.core import locks  # readers do not need it

        folder.mkdir(exist_ok=True)
        with locks.held(folder / ".lock"):
            if not file.exists():
                _write(file, {name: tensor.detach() for name, tensor in tensors.items()})
    return digest


def _write(file: Path, tensors: Mapping[str, Tensor]) -> None:
    partial = file.with_name(".part")  # overwritten if a killed process left one
    try:
        tensorfile.write(partial, tensors, {})
        partial.replace(file)
    finally:
        partial.unlink(missing_ok=True)


def name_of(digest: str) -> str:
    """Return the file name of base weights with this sha256."""
    return f"{digest}.safetensors"


def named(path: Path) -> str | None:
    """Return the sha256 of the base weights that a safetensors file refers to; None if the file is complete.

    UserError if the reference is not a sha256.
    """
    text = tensorfile.metadata_text(path)
    try:
        said = json.loads(text)
    except (ValueError, RecursionError):  # reported when the whole file is read
        return None
    digest = said.get(KEY) if isinstance(said, dict) else None
    if digest is None or (isinstance(digest, str) and _SHA256.fullmatch(digest)):
        return digest
    raise UserError(f"{path}: expected the sha256 of its base weights, not {str(digest)[:80]!r}")


def read(path: Path, digest: str) -> dict[str, Tensor]:
    """Return the base weights with this sha256, to which the file at `path` refers, by name.

    Their file is beside it, or in the folder of its sweep: `weights/` in a parent folder. One-line UserError if it is
    missing or damaged.
    """
    name = name_of(digest)
    above = dict.fromkeys((*path.absolute().parents, *path.resolve().parents))
    places = [path.absolute().parent / name, *(folder / BASES / name for folder in above)]
    file = next((place for place in places if place.is_file()), None)
    needs = f"{path} holds what a run learned, and needs {BASES}/{name} of its sweep"
    if file is None:
        raise UserError(f"{needs}: expected it in a parent folder, or {name} beside the file; neither is there")
    try:
        found = tensorfile.tensors_of(file)
        sha256 = hashing.of_tensors(found)
    except Exception as problem:  # hostile bytes can make a parser raise anything
        why = first_line(problem)
        raise UserError(f"{needs}: {file} is damaged ({why}), expected tensors with the sha256 {digest}") from None
    if sha256 != digest:
        raise UserError(f"{needs}: {file} is damaged, its tensors have the sha256 {sha256}")
    return found
