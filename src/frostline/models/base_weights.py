"""Weights with which many runs begin, kept once: a file of what a run learned names the rest by its sha256.

That is the sha256 of `hashing.of_tensors`, which is known of weights that come from a file before they are written: a
run that finds its base there writes, reads and hashes nothing of it.
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
from frostline.models import adapters, freezing
from frostline.models.state_dicts import within
from frostline.store import hashing, tensorfile

KEY = "base"
"""Of a file's metadata: the sha256 of the tensors that belong to its own and lie elsewhere."""
_SHA256 = re.compile(r"[0-9a-f]{64}")
_known: WeakKeyDictionary[nn.Module, str] = WeakKeyDictionary()
"""The sha256 of what networks began with."""


def belongs(name: str, heads: Sequence[str]) -> bool:
    """Return whether a tensor is one with which all runs of a network begin: it is of no head and of no adapter.

    Those are the same for all freeze modes, seeds of a new head and numbers of classes.
    """
    return not within(name, heads) and freezing.ADAPTER not in name.split(".")


def keep(module: nn.Module, heads: Sequence[str], folder: Path) -> str:
    """Return the sha256 of what runs of a network begin with, whose file is in `folder` by then.

    `module` has not learned yet but in its heads: it is looked through once. Many processes and hosts may do this at
    once; the file appears whole or not at all, and is written by one of them.
    """
    digest = _known.get(module)
    if digest is None or not (folder / name_of(digest)).exists():
        plain = adapters.without(module).keys()
        state = module.state_dict(keep_vars=True)
        tensors = {name: tensor for name, tensor in state.items() if name in plain and belongs(name, heads)}
        digest = _known[module] = _kept(tensors, folder)
    return digest


def _kept(tensors: Mapping[str, Tensor], folder: Path) -> str:
    digest = hashing.of_tensors(tensors)
    file = folder / name_of(digest)
    if not file.exists():
        from frostline.core import locks  # which nobody needs who reads

        folder.mkdir(exist_ok=True)
        with locks.held(folder / ".lock"):
            if not file.exists():
                _write(file, {name: tensor.detach() for name, tensor in tensors.items()})
    return digest


def _write(file: Path, tensors: Mapping[str, Tensor]) -> None:
    partial = file.with_name(".part")  # of a process that was killed it is written anew
    try:
        tensorfile.write(partial, tensors, {})
        partial.replace(file)
    finally:
        partial.unlink(missing_ok=True)


def name_of(digest: str) -> str:
    """Return what the file of weights with this sha256 is called."""
    return f"{digest}.safetensors"


def named(path: Path) -> str | None:
    """Return the sha256 of the weights that a safetensors file needs beside its own, None where it has all.

    UserError where it names something else.
    """
    text = tensorfile.metadata_text(path)
    try:
        said = json.loads(text)
    except (ValueError, RecursionError):  # said to be wrong by whoever reads all of it
        return None
    digest = said.get(KEY) if isinstance(said, dict) else None
    if digest is None or (isinstance(digest, str) and _SHA256.fullmatch(digest)):
        return digest
    raise UserError(f"{path}: expected a sha256 of the weights that belong to it, and it says {str(digest)[:80]!r}")


def read(path: Path, digest: str) -> dict[str, Tensor]:
    """Return by name the tensors with this sha256, which the file at `path` names.

    They lie beside it, or in the folder of its sweep: `weights/` in a folder above. UserError, a line, where they do
    not, or are others.
    """
    name = name_of(digest)
    above = dict.fromkeys((*path.absolute().parents, *path.resolve().parents))
    places = [path.absolute().parent / name, *(folder / BASES / name for folder in above)]
    file = next((place for place in places if place.is_file()), None)
    needs = f"{path} holds what a run learned, and needs {BASES}/{name} of its sweep"
    if file is None:
        raise UserError(f"{needs}: expected that in a folder above it, or {name} beside it, and it is in none")
    try:
        found = tensorfile.tensors_of(file)
        sha256 = hashing.of_tensors(found)
    except Exception as problem:  # hostile bytes can make a parser raise anything
        why = first_line(problem)
        raise UserError(f"{needs}: {file} is damaged ({why}), expected tensors with the sha256 {digest}") from None
    if sha256 != digest:
        raise UserError(f"{needs}: {file} is damaged, its tensors have the sha256 {sha256}")
    return found
