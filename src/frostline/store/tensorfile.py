"""Safetensors files: written atomically, also in two steps while some tensors still change."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from frostline.store import hashing

METADATA = "frostline"  # one entry only: safetensors writes several in random order, and equal weights hash alike


def save(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> str:
    """Write `tensors` and the JSON-able `metadata` as safetensors; return the file's sha256 as hex.

    The file appears whole or not at all (temporary file, fsync, rename). Equal weights give equal bytes.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        write(partial, tensors, metadata)
        digest = hashing.of_file(partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return digest


def write(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> None:
    """Write the same file as `save` directly at `path`, not atomically; it is synced to the disk.

    A tensor with several names is written under each of them. Raises OSError if the file cannot be written.
    """
    dense = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}  # on the CPU: the device may be full
    first = {tensor.data_ptr(): name for name, tensor in reversed(dense.items())}
    dense = {name: tensor if first[tensor.data_ptr()] == name else tensor.clone() for name, tensor in dense.items()}
    path.touch()
    mode = path.stat().st_mode  # the person's usual permissions: safetensors makes the file private
    try:
        save_file(dense, path, {METADATA: json.dumps(dict(metadata), sort_keys=True)})
    except SafetensorError as problem:  # hides the system's error, e.g. a full disk
        number = re.search(r"(?:\(os error |Os \{ code: )(\d+)", str(problem))  # second: safetensors 0.5
        raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) if number else problem from None
    path.chmod(mode)
    with path.open("rb") as file:
        os.fsync(file.fileno())


def overwrite(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Overwrite tensors in a file from `write` by those of the same name, dtype and shape, and sync it to the disk."""
    with path.open("r+b") as file:
        told = header(file)
        data = file.tell()
        for name, tensor in tensors.items():
            start, end = told[name]["data_offsets"]
            assert tensor.nbytes == end - start, name
            file.seek(data + start)
            file.write(hashing.bytes_of(tensor))
        file.flush()
        os.fsync(file.fileno())


def tensors_of(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file by name, on the CPU; raises what the parser raises."""
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)


def metadata_text(path: Path) -> str:
    """Return the JSON metadata that `write` gave a safetensors file; an empty object for other files."""
    with safe_open(path, framework="pt") as file:
        return str((file.metadata() or {}).get(METADATA, "{}"))


def header(file: IO[bytes]) -> dict[str, Any]:
    """Return the header of a safetensors file written here, and leave `file` at the start of the data.

    By tensor name it has `dtype`, `shape` and `data_offsets`, in bytes from there; `__metadata__` is the metadata
    (https://github.com/huggingface/safetensors#format).
    """
    length = int.from_bytes(file.read(8), "little")
    told: dict[str, Any] = json.loads(file.read(length))
    return told


class Draft:
    """A file of weights that is written in the background and appears at its path once `finish` is done.

    Leaving the block without `finish` removes the unfinished file.
    """

    def __init__(self, path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> None:
        """Prepare to write `tensors` and `metadata`, see `save`, to `path`."""
        self._path, self._tensors, self._metadata = path, tensors, metadata
        self._partial = path.with_name(f".{path.name}.part")
        self._aside = ThreadPoolExecutor(1)  # the disk writes while the processor trains
        self._begun: Future[None] | None = None

    def __enter__(self) -> Self:
        return self

    def begin(self, still: Mapping[str, Tensor]) -> None:
        """Start to write all tensors, if most bytes are those of `still`, which do not change until `finish`."""
        held = {name: tensor for name, tensor in still.items() if name in self._tensors}
        if 2 * _size(held) > _size(self._tensors):
            self._begun = self._aside.submit(write, self._partial, self._tensors, self._metadata)

    def finish(self, moved: Mapping[str, Tensor]) -> Future[str]:
        """Write `moved` in place of the tensors of these names; the future returns the finished file's sha256 (hex)."""
        return self._aside.submit(self._finish, moved)

    def _finish(self, moved: Mapping[str, Tensor]) -> str:
        if self._begun is None:
            write(self._partial, {**self._tensors, **moved}, self._metadata)
        else:
            self._begun.result()
            overwrite(self._partial, moved)
        digest = hashing.of_file(self._partial)
        self._partial.replace(self._path)
        return digest

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Wait for the writes, and remove an unfinished file."""
        self._aside.shutdown()
        self._partial.unlink(missing_ok=True)


def _size(tensors: Mapping[str, Tensor]) -> int:
    return sum(tensor.nbytes for tensor in tensors.values())
