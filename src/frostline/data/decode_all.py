"""Decode many images into one store entry, in parallel, reading each once, and collect the broken ones."""

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
from frostline.data.bit_depth import Levels
from frostline.data.decode_image import convert, tensor_of
from frostline.data.open_image import at_most, is_passing, why
from frostline.data.pixel_form import PixelForm, reduce, reduced
from frostline.data.resize import CenterCrop, center_crop
from frostline.store.writer import Writer

ProgressBar = Callable[[str, int], AbstractContextManager[Callable[[int], object]]]
"""Shows progress of a named task with a total within its block; call the yielded function with each increment."""


@contextmanager
def no_progress_bar(what: str, total: int) -> Iterator[Callable[[int], object]]:
    """Show no progress."""
    yield lambda count: None


_CHUNK = 16  # images per task: few enough for an even end, many enough for little overhead


class Differing(Exception):
    """Images of one size were expected, but sizes differ."""


_Keeper = Callable[[int, Tensor], tuple[int, Tensor] | None]
"""Returns, for a row and its decoded image, the start element in `pixels` and the values to write; None for nothing."""


_COLUMNS = {
    "sizes": ((2,), torch.int32),
    "digests": ((32,), torch.uint8),
    "hashes": ((2,), torch.int64),
    "done": ((), torch.int16),
    "spans": ((2,), torch.float64),
}
"""Facts about decoded images, a row each: shape and type of a row; see `decode_all`."""


@dataclass(frozen=True)
class _Job:
    """How images are read, decoded and written."""

    read: Callable[[int], Image.Image]
    keep: _Keeper
    levels: Levels
    columns: dict[str, NDArray[Any]]
    """By the names in `_COLUMNS`."""
    writer: Writer


def decode_all(
    writer: Writer,
    ids: Sequence[int],
    read: Callable[[int], Image.Image],
    *,
    form: PixelForm,
    max_pixels: int,
    progress: Callable[[int], object],
) -> dict[str, Any]:
    """Fill the tensors of an entry with the images `ids`, and return `bad`: id and reason of each broken image.

    The tensors are `sizes` `(N, 2)` int32 (width, height of the image), `digests` `(N, 32)` uint8 (sha256 of all its
    pixels), `hashes` `(N, 2)` int64 (see `perceptual_hash.of`), `done` `(N,)` int16 and `spans` `(N, 2)` float64 (see
    `ImageFacts`; NaN for 8 bits). Views and originals have `pixels` `(N, 3, H, W)` uint8. Stored images have `pixels`
    `(bytes,)` uint8, channels last, with `starts` `(N,)` int64 and `shapes` `(N, 2)` int32, height and width. Rows of
    broken images are zeros. The entry is not kept if an image failed for a reason that may pass. `read(id)` opens an
    image. Raises `Differing` for originals of several sizes. Chunks decoded by a killed process are not decoded again.
    """
    with at_most(max_pixels):
        columns = {
            name: writer.tensor(name, (len(ids), *row), dtype).numpy() for name, (row, dtype) in _COLUMNS.items()
        }
        job = _Job(read, _keeper(writer, ids, read, form), form.levels, columns, writer)
        done = {start: [(number, reason) for number, reason in bad] for start, bad in writer.notes}
        bad = [*chain.from_iterable(done.values())]
        chunks = [chunk for chunk in _chunks(len(ids)) if chunk.start not in done]
        progress(len(ids) - sum(map(len, chunks)))
        with _keeping_blocks(4 * machine.cores()), threads() as pool:
            for chunk, found in zip(chunks, pool.map(partial(_decode_chunk, job, ids), chunks), strict=True):
                bad += found
                progress(len(chunk))
    return {"bad": sorted(bad)}


def _keeper(writer: Writer, ids: Sequence[int], read: Callable[[int], Image.Image], form: PixelForm) -> _Keeper:
    """Allocate the pixels of an entry, and return the function that says what to write there for an image."""
    if form.kind == "view":
        assert form.view is not None
        writer.tensor("pixels", (len(ids), 3, form.view.size, form.view.size), torch.uint8, piecemeal=True)
        return partial(_view, form.view)
    if form.kind == "original":
        width, height = first_size(ids, read, form.levels) or (1, 1)
        writer.tensor("pixels", (len(ids), 3, height, width), torch.uint8, piecemeal=True)
        return partial(_original, (3, height, width))
    if form.kind == "stored":
        areas = torch.tensor([width * height for width, height in reduced(header_sizes(ids, read), form.side)])
        starts = writer.tensor("starts", (len(ids),), torch.int64).copy_(3 * (areas.cumsum(0) - areas))
        shapes = writer.tensor("shapes", (len(ids), 2), torch.int32)
        writer.tensor("pixels", (3 * int(areas.sum()),), torch.uint8, piecemeal=True)
        return partial(_stored, starts.tolist(), areas.tolist(), shapes, form.side)
    return lambda row, image: None


def _view(how: CenterCrop, row: int, image: Tensor) -> tuple[int, Tensor]:
    view = center_crop(image[None], how)
    return row * view.numel(), view


def _original(shape: tuple[int, int, int], row: int, image: Tensor) -> tuple[int, Tensor]:
    if image.shape != shape:
        raise Differing
    return row * image.numel(), image


def _stored(
    starts: Sequence[int], areas: Sequence[int], shapes: Tensor, side: int | None, row: int, image: Tensor
) -> tuple[int, Tensor]:
    kept = reduce(image, side)
    height, width = kept.shape[1:]
    if width * height != areas[row]:
        raise ValueError("its size is not what its header says")
    shapes[row] = torch.tensor([height, width], dtype=torch.int32)
    return starts[row], kept.permute(1, 2, 0)


def header_sizes(
    ids: Sequence[int], read: Callable[[int], Image.Image], progress: Callable[[int], object] = lambda count: None
) -> list[tuple[int, int]]:
    """Return width and height of images from their headers, before EXIF orientation; (0, 0) for broken ones."""

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
    except Exception:  # reported when it is decoded
        return (0, 0)


def first_size(ids: Sequence[int], read: Callable[[int], Image.Image], levels: Levels) -> tuple[int, int] | None:
    """Return width and height, upright, of the first readable image; None if there is none."""
    for index in ids:
        try:
            with read(index) as image:
                return convert(image, levels)[0].size
        except Exception:  # reported when it is decoded
            continue
    return None


def _chunks(count: int) -> list[range]:
    return [range(start, min(start + _CHUNK, count)) for start in range(0, count, _CHUNK)]


@contextmanager
def threads() -> Iterator[ThreadPoolExecutor]:
    """Yield a thread pool, which decodes as fast as processes, since Pillow releases the GIL; an interrupt ends it."""
    pool = ThreadPoolExecutor(machine.cores())
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


@contextmanager
def _keeping_blocks(count: int) -> Iterator[None]:
    """Let Pillow reuse the memory of decoded images; allocating it anew costs a quarter of the decoding time."""
    core = cast(Any, Image).core  # documented home of Pillow's block allocator
    before = core.get_blocks_max()
    core.set_blocks_max(count)
    try:
        yield
    finally:
        core.set_blocks_max(before)


def _decode_chunk(job: _Job, ids: Sequence[int], chunk: range) -> list[tuple[int, str]]:
    """Decode the images of a chunk of rows, and return id and reason of each broken one."""
    bad: list[tuple[int, str]] = []
    small: dict[int, Tensor] = {}
    passing = False
    for row in chunk:
        try:
            with job.read(ids[row]) as opened:
                image, facts = tensor_of(opened, job.levels)
            kept = job.keep(row, image)
        except Differing:
            raise
        except Exception as error:  # Pillow may raise anything for a broken file
            bad.append((ids[row], why(error)))
            if is_passing(error):
                passing = True
                job.writer.reject("some images could not be read this time")
        else:
            if kept is not None:
                job.writer.put("pixels", *kept)
            columns, pixels = job.columns, image.permute(1, 2, 0).contiguous()
            columns["sizes"][row] = (image.shape[2], image.shape[1])
            columns["done"][row] = facts.done
            columns["spans"][row] = (facts.lowest, facts.highest)
            columns["digests"][row] = np.frombuffer(hashlib.sha256(pixels.numpy().data).digest(), dtype=np.uint8)
            small[row] = perceptual_hash.small(image)
    if small:
        job.columns["hashes"][list(small)] = perceptual_hash.of(torch.stack(list(small.values())))
    if not passing:
        job.writer.note((chunk.start, bad))
    return bad
