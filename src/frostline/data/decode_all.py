"""Many pictures become one tensor: decoded side by side, each looked at once, and what is wrong with them told."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from frostline.core import machine
from frostline.data import perceptual_hash
from frostline.data.bit_depth import FULL, Levels
from frostline.data.decode_image import convert, tensor_of
from frostline.data.open_image import at_most, is_passing, why
from frostline.data.reduction import reduce, reduced
from frostline.data.resize import CenterCrop, center_crop
from frostline.store.writer import Writer

Progress = Callable[[str, int], AbstractContextManager[Callable[[int], object]]]
"""Shows for as long as its block lasts how much of so many is done; the callable is told how many more."""


@contextmanager
def unseen(what: str, total: int) -> Iterator[Callable[[int], object]]:
    """Show no progress."""
    yield lambda count: None


_CHUNK = 16  # pictures per task: few enough for an even end, many enough to cost nothing


@dataclass(frozen=True)
class Keep:
    """What is kept of each picture."""

    kind: str
    """`view`: what is seen of it where nothing is random. `original`: all of it, where all are of one size. `stored`:
    all of it, of any size, perhaps reduced. `nothing`: that it can be read."""
    view: CenterCrop | None = None
    side: int | None = None
    """Of what is stored, the shorter side in pixels; what is no larger stays as it is. None: all does."""
    levels: Levels = FULL
    """How values of more than 8 bits are shown."""


class Differing(Exception):
    """Pictures of one size were expected."""


_Keeper = Callable[[int, Tensor], tuple[int, Tensor] | None]
"""Returns from which number on in `pixels` what is kept of a picture is written, and that."""


@dataclass(frozen=True)
class _Columns:
    """Where decoded pictures go, a row each."""

    sizes: NDArray[np.int32]
    digests: NDArray[np.uint8]
    hashes: NDArray[np.int64]
    done: NDArray[np.int16]
    spans: NDArray[np.float64]


@dataclass(frozen=True)
class _Job:
    """How pictures are decoded."""

    read: Callable[[int], Image.Image]
    keep: _Keeper
    levels: Levels
    columns: _Columns
    writer: Writer


def decode_all(
    writer: Writer,
    ids: Sequence[int],
    read: Callable[[int], Image.Image],
    *,
    keep: Keep,
    max_pixels: int,
    progress: Callable[[int], object],
) -> dict[str, Any]:
    """Fill the tensors of an entry with the pictures `ids`, and return `bad`: the id and reason of each that is broken.

    The tensors are `sizes` `(N, 2)` int32 (width, height of the picture), `digests` `(N, 32)` uint8 (sha256 of its
    pixels, all of them), `hashes` `(N, 2)` int64 (see `perceptual_hash.of`), `done` `(N,)` int16 and `spans` `(N, 2)`
    float64 (see `PictureFacts`; NaN for 8 bits); for views and originals `pixels` `(N, 3, H, W)` uint8; for what is
    stored `pixels` `(bytes,)` uint8, channels last, with `starts` `(N,)` int64 and `shapes` `(N, 2)` int32, height and
    width. Those of a broken picture stay zero. An entry without pictures that may be readable another time is not kept.
    `read(id)` opens a picture. Raises `Differing` for originals of several sizes. What a process that was killed had
    decoded stays.
    """
    with at_most(max_pixels):
        columns = _Columns(
            sizes=writer.tensor("sizes", (len(ids), 2), torch.int32).numpy(),
            digests=writer.tensor("digests", (len(ids), 32), torch.uint8).numpy(),
            hashes=writer.tensor("hashes", (len(ids), 2), torch.int64).numpy(),
            done=writer.tensor("done", (len(ids),), torch.int16).numpy(),
            spans=writer.tensor("spans", (len(ids), 2), torch.float64).numpy(),
        )
        job = _Job(read, _keeper(writer, ids, read, keep), keep.levels, columns, writer)
        done = {start: [(number, reason) for number, reason in bad] for start, bad in writer.notes}
        bad = [*chain.from_iterable(done.values())]
        chunks = [chunk for chunk in _chunks(len(ids)) if chunk.start not in done]
        progress(len(ids) - sum(map(len, chunks)))
        with _keeping_blocks(4 * machine.cores()), threads() as pool:
            for chunk, found in zip(chunks, pool.map(partial(_decode_chunk, job, ids), chunks), strict=True):
                bad += found
                progress(len(chunk))
    return {"bad": sorted(bad)}


def _keeper(writer: Writer, ids: Sequence[int], read: Callable[[int], Image.Image], keep: Keep) -> _Keeper:
    """Make room in an entry for what is kept of its pictures, and return what says what that is."""
    if keep.kind == "view":
        assert keep.view is not None
        writer.tensor("pixels", (len(ids), 3, keep.view.size, keep.view.size), torch.uint8, piecemeal=True)
        return partial(_view, keep.view)
    if keep.kind == "original":
        width, height = first_size(ids, read, keep.levels) or (1, 1)
        writer.tensor("pixels", (len(ids), 3, height, width), torch.uint8, piecemeal=True)
        return partial(_original, (3, height, width))
    if keep.kind == "stored":
        areas = torch.tensor([width * height for width, height in reduced(header_sizes(ids, read), keep.side)])
        starts = writer.tensor("starts", (len(ids),), torch.int64).copy_(3 * (areas.cumsum(0) - areas))
        shapes = writer.tensor("shapes", (len(ids), 2), torch.int32)
        writer.tensor("pixels", (3 * int(areas.sum()),), torch.uint8, piecemeal=True)
        return partial(_stored, starts.tolist(), areas.tolist(), shapes, keep.side)
    return lambda row, picture: None


def _view(how: CenterCrop, row: int, picture: Tensor) -> tuple[int, Tensor]:
    view = center_crop(picture[None], how)
    return row * view.numel(), view


def _original(shape: tuple[int, int, int], row: int, picture: Tensor) -> tuple[int, Tensor]:
    if picture.shape != shape:
        raise Differing
    return row * picture.numel(), picture


def _stored(
    starts: Sequence[int], areas: Sequence[int], shapes: Tensor, side: int | None, row: int, picture: Tensor
) -> tuple[int, Tensor]:
    kept = reduce(picture, side)
    height, width = kept.shape[1:]
    if width * height != areas[row]:
        raise ValueError("its size is not what its header says")
    shapes[row] = torch.tensor([height, width], dtype=torch.int32)
    return starts[row], kept.permute(1, 2, 0)


def header_sizes(
    ids: Sequence[int], read: Callable[[int], Image.Image], progress: Callable[[int], object] = lambda count: None
) -> list[tuple[int, int]]:
    """Return width and height of the pictures as their headers say, before they are turned; (0, 0) for broken ones."""

    def look(chunk: range) -> list[tuple[int, int]]:
        return [_header_size(read, ids[row]) for row in chunk]

    found: list[tuple[int, int]] = []
    with threads() as pool:
        for sizes in pool.map(look, _chunks(len(ids))):
            found += sizes
            progress(len(sizes))
    return found


def _header_size(read: Callable[[int], Image.Image], index: int) -> tuple[int, int]:
    try:
        with read(index) as image:
            return image.size
    except Exception:  # told when it is decoded
        return (0, 0)


def first_size(ids: Sequence[int], read: Callable[[int], Image.Image], levels: Levels) -> tuple[int, int] | None:
    """Return width and height, upright, of the first picture that can be read; None where there is none."""
    for index in ids:
        try:
            with read(index) as image:
                return convert(image, levels)[0].size
        except Exception:  # told when its turn comes
            continue
    return None


def _chunks(count: int) -> list[range]:
    return [range(start, min(start + _CHUNK, count)) for start in range(0, count, _CHUNK)]


@contextmanager
def threads() -> Iterator[ThreadPoolExecutor]:
    """Give threads, which decode as fast as processes since Pillow lets go of Python's lock; an interrupt ends them."""
    pool = ThreadPoolExecutor(machine.cores())
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


def _decode_chunk(job: _Job, ids: Sequence[int], chunk: range) -> list[tuple[int, str]]:
    """Decode the pictures in some rows, and return the id and reason of each that is broken."""
    bad: list[tuple[int, str]] = []
    small: dict[int, Tensor] = {}
    passing = False
    for row in chunk:
        try:
            with job.read(ids[row]) as opened:
                picture, facts = tensor_of(opened, job.levels)
            kept = job.keep(row, picture)
        except Differing:
            raise
        except Exception as error:  # a broken file makes Pillow raise anything
            bad.append((ids[row], why(error)))
            if is_passing(error):
                passing = True
                job.writer.reject("some could not be read this time")
        else:
            if kept is not None:
                job.writer.put("pixels", *kept)
            columns, levels = job.columns, picture.permute(1, 2, 0).contiguous()
            columns.sizes[row] = (picture.shape[2], picture.shape[1])
            columns.done[row] = facts.done
            columns.spans[row] = (facts.lowest, facts.highest)
            columns.digests[row] = np.frombuffer(hashlib.sha256(levels.numpy().data).digest(), dtype=np.uint8)
            small[row] = perceptual_hash.small(picture)
    if small:
        job.columns.hashes[list(small)] = perceptual_hash.of(torch.stack(list(small.values())))
    if not passing:
        job.writer.note((chunk.start, bad))
    return bad
