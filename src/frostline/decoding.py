"""Many pictures become one tensor: decoded side by side, each looked at once, and what is wrong with them told."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from frostline import environment
from frostline.config import user_error
from frostline.pixels import at_most, convert, is_passing, squash, tensor_of, why
from frostline.store import Writer

Progress = Callable[[str, int], AbstractContextManager[Callable[[int], object]]]
"""Shows for as long as its block lasts how much of so many is done; the callable is told how many more."""

_CHUNK = 16  # pictures per task: few enough for an even end, many enough to cost nothing


@dataclass(frozen=True)
class _Columns:
    """Where decoded pictures go, a row each."""

    pixels: Tensor
    sizes: NDArray[np.int32]
    digests: NDArray[np.uint8]
    done: NDArray[np.uint8]


@dataclass(frozen=True)
class _Job:
    """How pictures are decoded."""

    read: Callable[[int], Image.Image]
    size: int | None
    columns: _Columns
    bad: dict[int, str]
    writer: Writer


def decode_all(
    writer: Writer,
    ids: Sequence[int],
    read: Callable[[int], Image.Image],
    *,
    size: int | None,
    max_pixels: int,
    progress: Callable[[int], object],
) -> dict[str, Any]:
    """Fill the tensors of an entry with the pictures `ids`, and return `bad`: the id and reason of each that is broken.

    The tensors are `pixels` `(N, 3, H, W)` uint8, `sizes` `(N, 2)` int32 (width, height of the original), `digests`
    `(N, 32)` uint8 (sha256 of the pixels) and `done` `(N,)` uint8 (see `pixels.convert`); those of a broken picture
    stay zero. An entry without pictures that may be readable another time is not kept. `read(id)` opens a picture.
    Without `size` all must be of one size, else `UserError`.
    """
    with at_most(max_pixels):
        width, height = (size, size) if size is not None else _first_size(ids, read)
        pixels = writer.tensor("pixels", (len(ids), 3, height, width), torch.uint8)
        columns = _Columns(
            pixels=pixels,
            sizes=writer.tensor("sizes", (len(ids), 2), torch.int32).numpy(),
            digests=writer.tensor("digests", (len(ids), 32), torch.uint8).numpy(),
            done=writer.tensor("done", (len(ids),), torch.uint8).numpy(),
        )
        job = _Job(read, size, columns, {}, writer)
        chunks = [range(start, min(start + _CHUNK, len(ids))) for start in range(0, len(ids), _CHUNK)]
        workers = environment.cores()
        with _keeping_blocks(4 * workers), _threads(workers) as pool:
            for count in pool.map(partial(_decode_chunk, job, ids), chunks):
                progress(count)
    if size is None:
        _check_common(columns.sizes[[index not in job.bad for index in ids]])
    return {"bad": sorted(job.bad.items())}


@contextmanager
def _threads(count: int) -> Iterator[ThreadPoolExecutor]:
    """Give threads, which decode as fast as processes since Pillow lets go of Python's lock; an interrupt ends them."""
    pool = ThreadPoolExecutor(count)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


@contextmanager
def _keeping_blocks(count: int) -> Iterator[None]:
    """Let Pillow use the memory of one picture for the next: to get it anew costs a quarter of the time to decode."""
    core = cast(Any, Image).core  # the documented place of Pillow's block allocator
    before = core.get_blocks_max()
    core.set_blocks_max(count)
    try:
        yield
    finally:
        core.set_blocks_max(before)


def _decode_chunk(job: _Job, ids: Sequence[int], chunk: range) -> int:
    for row in chunk:
        try:
            with job.read(ids[row]) as image:
                picture, done = tensor_of(image)
            squashed = squash(picture, job.size).contiguous()
        except Exception as error:  # a broken file makes Pillow raise anything
            job.bad[ids[row]] = why(error)
            if is_passing(error):
                job.writer.reject("some could not be read this time")
        else:
            _keep(job, row, picture, squashed, done)
    return len(chunk)


def _keep(job: _Job, row: int, picture: Tensor, squashed: Tensor, done: int) -> None:
    columns = job.columns
    columns.sizes[row] = (picture.shape[2], picture.shape[1])
    columns.done[row] = done
    if squashed.shape == columns.pixels.shape[1:]:  # else they differ in size, which `_check_common` tells
        job.writer.put("pixels", row, squashed)
        columns.digests[row] = np.frombuffer(hashlib.sha256(squashed.numpy().data).digest(), dtype=np.uint8)


def _first_size(ids: Sequence[int], read: Callable[[int], Image.Image]) -> tuple[int, int]:
    """Return width and height of the first picture that can be read."""
    for index in ids:
        try:
            with read(index) as image:
                return convert(image)[0].size
        except Exception:  # told when its turn comes
            continue
    return (1, 1)


def _check_common(sizes: NDArray[np.int32]) -> None:
    found = sorted({(width, height) for width, height in sizes.tolist()})
    if len(found) > 1:
        some = ", ".join(f"{width}x{height}" for width, height in found[:3]) + (" ..." if len(found) > 3 else "")
        raise user_error("data.decode_size", "null", f"a side in pixels, since the images differ: {some}")
