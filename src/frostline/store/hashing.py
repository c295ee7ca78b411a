"""The sha256 of files and tensors, cached until they are written to."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

_SETTLED = 2.0  # seconds
_sources: dict[tuple[int, ...], str] = {}
"""The sha256 of files, by their device, inode, size and times."""
_hashed: WeakTensorKeyDictionary = WeakTensorKeyDictionary()
"""Version and sha256 of tensors hashed before."""
_origins: WeakTensorKeyDictionary = WeakTensorKeyDictionary()
"""Version and origin of parameters loaded from a file; the origin is the file's sha256, and their name and shape."""
_given: dict[tuple[str, str, torch.Size], bytes] = {}
"""The sha256 of parameters loaded from files, by their origin."""


def of_facts(facts: object) -> str:
    """Return the sha256 (hex) of plain values."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def of_file(path: Path) -> str:
    """Return the sha256 of the file's bytes as 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def of_source(path: Path) -> str:
    """Return the same as `of_file`, for a file that many runs start from; it is read again only if it has changed.

    The system records the time of a change in steps of milliseconds: the hash of a file changed within the last
    `_SETTLED` seconds is not cached.
    """
    now = path.stat()
    state = (now.st_dev, now.st_ino, now.st_size, now.st_mtime_ns, now.st_ctime_ns)
    digest = _sources.get(state) or of_file(path)
    if time.time() - now.st_ctime > _SETTLED:
        _sources[state] = digest
    return digest


def of_tensors(tensors: Mapping[str, Tensor]) -> str:
    """Return the sha256 (hex) over names, types, shapes and bytes of `tensors`, in name order.

    The bytes of a parameter are read once, and again only after torch has written to it: pass
    `state_dict(keep_vars=True)` for a module. Parameters from a file (`remember_source`) are read once for all networks
    built from it.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode() + _hashed_once(tensor))
    return digest.hexdigest()


def remember_source(parameters: Mapping[str, nn.Parameter], digest: str) -> None:
    """Remember that `parameters` were loaded, under their names, from the file with the sha256 `digest`."""
    for name, parameter in parameters.items():
        _origins[parameter] = (parameter._version, (digest, name, parameter.shape))


def _hashed_once(tensor: Tensor) -> bytes:
    """Return the sha256 of a tensor, cached until it is written to: torch counts writes, optimizers' too."""
    version, known = _hashed.get(tensor, (-1, b""))
    if version == tensor._version:
        return known
    origin = _origin(tensor)
    found = (_given.get(origin) if origin else None) or hashlib.sha256(bytes_of(tensor)).digest()
    if isinstance(tensor, nn.Parameter):
        _hashed[tensor] = (tensor._version, found)
    if origin is not None:
        _given[origin] = found
    return found


def _origin(tensor: Tensor) -> tuple[str, str, torch.Size] | None:
    """Return the origin of a tensor, None if it was written to since or did not come from a file."""
    version, origin = _origins.get(tensor, (-1, None))
    return origin if version == tensor._version else None


def bytes_of(tensor: Tensor) -> memoryview:
    """Return the bytes of a tensor in row-major order."""
    dense = tensor.detach().to("cpu", memory_format=torch.contiguous_format).contiguous()
    return dense.reshape(-1).view(torch.uint8).numpy().data
