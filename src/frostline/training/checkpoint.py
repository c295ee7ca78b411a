"""Checkpoints on disk: written atomically, verified before use, never a pickle.

A checkpoint is one safetensors file, numbered upward, with its facts in the header and its sha256 in a file beside it.
The last two are kept, so that a damaged file costs only the work since the one before.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from frostline.store import hashing, tensorfile

_KEPT = 2
_FACTS = "facts"  # the only entry of the header, for the same reason as `tensorfile.METADATA`
_ORDERS = "orders"
_PIECE = 1 << 20  # bytes


class DamagedCheckpoint(ValueError):
    """A checkpoint does not hold what was written."""


def save(home: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> Path:
    """Write `tensors`, on the CPU, and the JSON-serialisable `facts` into the folder `home`; return the new file.

    The file is synced to disk, read back and compared before any older one is removed. Raises `DamagedCheckpoint` if it
    differs, and OSError if it cannot be written; older ones are then kept.
    """
    home.mkdir(exist_ok=True)
    number = max((_number(path) for path in home.glob("*.safetensors")), default=0) + 1
    path = home / f"{number:06d}.safetensors"
    dense, orders = _dense(tensors)
    header = {_FACTS: json.dumps({**facts, _ORDERS: orders})}
    partial, beside = path.with_suffix(".partial"), _beside(path)
    try:
        save_file(dense, partial, header)
    except SafetensorError as problem:
        partial.unlink(missing_ok=True)
        raise OSError(f"{partial}: {problem}") from problem
    with ThreadPoolExecutor(1) as aside:  # sync while the CPU hashes
        synced = aside.submit(_sync, partial)
        digest = _verified(partial, dense, header)
        synced.result()
    if digest is None:
        raise DamagedCheckpoint(f"{partial}: its content differs from what was written")
    partial.replace(path)
    note = beside.with_suffix(".partial")
    note.write_text(_line(digest, path))
    _sync(note)
    note.replace(beside)
    _sync(home)
    _forget(home, before=number - _KEPT + 1)
    return path


def intact(home: Path, say: Callable[[str], None]) -> Iterator[tuple[dict[str, Tensor], dict[str, Any]]]:
    """Yield the tensors and facts of each checkpoint in the folder `home`, newest first.

    Damaged and incomplete ones are skipped, each with one line to `say`.
    """
    for path in _newest_first(home):
        try:
            yield read(path)
        except DamagedCheckpoint as problem:
            say(f"  skipped: {problem}")


def newest(home: Path) -> list[Path]:
    """Return the files of the newest complete checkpoint, tensors and sha256; empty if there is none."""
    return next(([path, _beside(path)] for path in _newest_first(home) if _beside(path).exists()), [])


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors and facts of a checkpoint; raises `DamagedCheckpoint` unless its sha256 file agrees."""
    try:
        if _beside(path).read_bytes() != _line(hashing.of_file(path), path).encode():
            raise DamagedCheckpoint(f"{path}: its sha256 differs from the one in its .sha256 file")
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
            facts: dict[str, Any] = json.loads(file.metadata()[_FACTS])
        orders = facts.pop(_ORDERS)
        return {name: _undo(tensor, orders[name]) for name, tensor in tensors.items()}, facts
    except DamagedCheckpoint:
        raise
    except FileNotFoundError:
        raise DamagedCheckpoint(f"{path}: incomplete, its .sha256 file is missing") from None
    except Exception as problem:  # hostile bytes can make a parser raise anything
        raise DamagedCheckpoint(f"{path}: not a checkpoint ({type(problem).__name__})") from problem


def _newest_first(home: Path) -> list[Path]:
    return sorted(home.glob("*.safetensors"), key=_number, reverse=True)


def _number(path: Path) -> int:
    return int(path.stem) if path.stem.isdecimal() else 0


def _beside(path: Path) -> Path:
    return path.with_suffix(".sha256")


def _line(digest: str, path: Path) -> str:
    return f"{digest}  {path.name}\n"  # the format of `sha256sum --check`


def _sync(path: Path) -> None:
    """Sync a file or folder to disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _forget(home: Path, *, before: int) -> None:
    """Remove checkpoints numbered below `before`, and partial files of killed processes."""
    for path in home.iterdir():
        if path.suffix == ".partial" or _number(path) < before:
            with suppress(OSError):
                path.unlink()


def _dense(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, list[int]]]:
    """Return the tensors with dimensions permuted to memory order, and the permutations by name.

    Copying channels_last weights into contiguous order would take longer than writing them.
    """
    orders = {name: sorted(range(one.ndim), key=one.stride, reverse=True) for name, one in tensors.items()}
    return {name: one.permute(orders[name]).contiguous() for name, one in tensors.items()}, orders


def _undo(tensor: Tensor, order: list[int]) -> Tensor:
    return tensor.permute([order.index(i) for i in range(len(order))])


def _verified(path: Path, tensors: Mapping[str, Tensor], header: Mapping[str, str]) -> str | None:
    """Return the sha256 of the file, read once; None unless it has `header` and holds `tensors`, bit for bit."""
    try:
        with safe_open(path, framework="pt") as file:  # reads no tensor data
            types = {name: file.get_tensor(name).dtype for name in file.keys()}  # noqa: SIM118 (not a dict)
            if file.metadata() != header or types != {name: tensor.dtype for name, tensor in tensors.items()}:
                return None
    except SafetensorError:
        return None
    digest, buffer = hashlib.sha256(), np.empty(_PIECE, np.uint8)
    with path.open("rb", buffering=0) as raw:
        told = tensorfile.header(raw)
        digest.update(os.pread(raw.fileno(), raw.tell(), 0))
        del told["__metadata__"]
        for name, facts in sorted(told.items(), key=lambda item: item[1]["data_offsets"]):
            if facts["shape"] != [*tensors[name].shape]:
                return None
            for piece in tensors[name].flatten().view(torch.uint8).split(_PIECE):  # as bytes, nan equals itself
                found = buffer[: len(piece)]
                if raw.readinto(found.data) != len(piece) or not np.array_equal(found, piece.numpy()):
                    return None
                digest.update(found.data)
    return digest.hexdigest()
