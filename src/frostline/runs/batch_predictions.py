"""Classify batches of images, decoded in parallel while the network computes the batch before."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from itertools import chain

import torch
from PIL import Image
from torch import Tensor

from frostline.data.decode_all import threads
from frostline.data.decode_image import tensor_of
from frostline.data.open_image import at_most, why
from frostline.runs.predict import Layer, Predictor, probabilities_of, view, with_features

_TASK = 16  # images per decoding task: few enough to balance threads, many enough for negligible overhead


@dataclass(frozen=True)
class Answers:
    """The predictions for a batch of images."""

    rows: range
    """The rows of the images in their list."""
    probabilities: Tensor
    """`(N, classes)` float32 of the readable images."""
    features: Tensor | None
    """`(N, D)` float32 of the same images, if requested."""
    errors: Mapping[int, str]
    """The reason for each unreadable image, by row."""


def answers(
    predictor: Predictor,
    batches: Iterable[range],
    read: Callable[[int], Image.Image],
    *,
    features: Layer | None = None,
    show: Callable[[int, Tensor], object] | None = None,
) -> Iterator[Answers]:
    """Yield the predictions for each batch; `read(row)` opens an image, and raises if it is broken.

    Images are decoded one batch ahead of the network, and kept as views, so that memory holds two batches of views
    however large the images are. `show` is called with each row and its view `(3, S, S)` uint8.
    """
    with at_most(predictor.config.data.max_pixels), threads() as pool:

        def begun(rows: range) -> tuple[range, list[Future[list[Tensor | str]]]]:
            parts = (rows[start : start + _TASK] for start in range(0, len(rows), _TASK))
            return rows, [pool.submit(_views, predictor, read, part) for part in parts]

        before = None
        for coming in chain(map(begun, batches), [None]):
            if before is not None:
                yield _answer(predictor, *before, features, show)
            before = coming


def _views(predictor: Predictor, read: Callable[[int], Image.Image], rows: range) -> list[Tensor | str]:
    """Return the view of each image, or why the image cannot be read."""

    def look(row: int) -> Tensor | str:
        try:
            with read(row) as image:
                return view(predictor, tensor_of(image, predictor.levels)[0])
        except Exception as error:  # a broken file makes Pillow raise anything
            return why(error)

    return [look(row) for row in rows]


def _answer(
    predictor: Predictor,
    rows: range,
    parts: Sequence[Future[list[Tensor | str]]],
    features: Layer | None,
    show: Callable[[int, Tensor], object] | None,
) -> Answers:
    seen = dict(zip(rows, (one for part in parts for one in part.result()), strict=True))
    errors = {row: one for row, one in seen.items() if isinstance(one, str)}
    views = {row: one for row, one in seen.items() if isinstance(one, Tensor)}
    if show is not None:
        for row, one in views.items():
            show(row, one)
    if not views:
        vectors = None if features is None else torch.empty(0, features.dimensions)
        return Answers(rows, torch.empty(0, len(predictor.classes)), vectors, errors)
    said, vectors = with_features(predictor, torch.stack(list(views.values())), features)
    return Answers(rows, probabilities_of(predictor, said), vectors, errors)
