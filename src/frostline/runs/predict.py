"""A trained network as its run left it, and what it says of pictures: the decoding and the view of the evaluation.

Nothing that a run left can run code: its config is read as plain YAML, its weights as safetensors.
"""

from __future__ import annotations

import os
import reprlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from frostline.core import machine, untrusted
from frostline.core.config import Config
from frostline.core.errors import UserError, one_line, user_error
from frostline.core.files import expanded
from frostline.core.labels import class_probabilities
from frostline.core.validation import read_config
from frostline.data.bit_depth import Levels, of_record
from frostline.data.decode_image import tensor_of
from frostline.data.open_image import at_most, open_anywhere, why
from frostline.data.resize import CenterCrop, center_crop
from frostline.models import build, cut, weights
from frostline.models.build import Model
from frostline.models.mean_pooling import pooled, pooling
from frostline.records import layout
from frostline.records.layout import BEST, CONFIG
from frostline.store import hashing

_TASK = 16  # pictures that a thread decodes at once: few enough for an even end, many enough to cost nothing


@dataclass(frozen=True)
class Predictor:
    """A network in eval mode on its device, and how pictures are shown to it."""

    model: Model
    classes: tuple[str, ...]
    config: Config
    device: torch.device
    levels: Levels
    """How values of more than 8 bits were shown to it."""
    digest: str
    """sha256 (hex) of the file of its weights."""
    multi_label: bool = False
    """Whether a picture may be of several classes, or of none."""

    def prepare(self) -> None:
        """Have torch compute as in the run, with its threads and its determinism, in this process from now on."""
        machine.prepare_torch(deterministic=self.config.deterministic, threads=self.config.threads)

    @property
    def center(self) -> CenterCrop:
        """What of a picture is shown to it."""
        return CenterCrop.of(self.model.input)


def load(folder: Path, *, device: str) -> Predictor:
    """Return the network of the run in `folder` with the weights of its best epoch.

    `device` is `auto`, `cpu`, `cuda` or `cuda:<n>`. UserError where the files are missing, damaged, or not a run's.
    """
    config = read_config(folder / CONFIG)
    place = machine.device(device)
    machine.prepare_torch(deterministic=config.deterministic, threads=config.threads)
    file = folder / BEST
    meta = weights.metadata_of(file)
    if meta.get("model") != config.model.name or not meta.get("classes"):
        raise UserError(f"{file}: expected weights of {config.model.name} that a run of frostline has written")
    classes = tuple(map(str, meta["classes"]))
    try:
        shown = of_record(meta.get("levels"))
    except ValueError as error:
        raise UserError(f"{file}: expected weights that a run of frostline has written, and it says {error}") from None
    model = build.build(
        config.model.name, library=config.model.library, weights=str(file), num_classes=len(classes), seed=0, meta=True
    )
    try:
        model.module.load_state_dict(weights.read(file), assign=True)
    except RuntimeError as error:
        raise UserError(f"{file}: expected all weights of {config.model.name} ({one_line(error)})") from None
    origin, digest = folder / layout.PROVENANCE, hashing.of_file(file)
    told = untrusted.mapping(origin).get("weights") if origin.exists() else None
    if isinstance(told, dict) and told.get("final") not in (None, digest):
        raise UserError(f"{file}: expected the weights that the run has written, and these were changed since")
    memory_format = machine.memory_format(channels_last=config.channels_last)
    model.module.eval().to(place).to(memory_format=memory_format)
    return Predictor(model, classes, config, place, shown, digest, meta.get("multi_label") is True)


def view(predictor: Predictor, picture: Tensor) -> Tensor:
    """Return `(3, S, S)` uint8: what the network is shown of a picture `(3, H, W)` uint8 of any size."""
    return center_crop(picture[None], predictor.center)[0]


def logits(predictor: Predictor, views: Tensor) -> Tensor:
    """Return `(B, classes)` float32 on the CPU for views `(B, 3, S, S)` uint8, in the precision of the run."""
    return _passed(predictor, views, None)[0]


@torch.inference_mode()
def _passed(predictor: Predictor, views: Tensor, features: Layer | None) -> tuple[Tensor, Tensor | None]:
    """Return the logits of views, and the features `(B, D)` that they are made of where a layer is given."""
    dtype = machine.autocast_dtype(predictor.config.precision, predictor.device)
    memory_format = machine.memory_format(channels_last=predictor.config.channels_last)
    inputs = predictor.model.input.normalise(views.to(predictor.device).float())
    inputs = inputs.contiguous(memory_format=memory_format)
    with machine.mixed(predictor.device, dtype):
        if features is None:
            return predictor.model.module(inputs).float().cpu(), None
        activations = features.lower(inputs)
        outputs: Tensor = features.upper(activations)
    return outputs.float().cpu(), pooled(activations).cpu()


@dataclass(frozen=True)
class Layer:
    """Where in a network features are taken."""

    name: str
    """`head` for what the head is given, else the last stage below."""
    pooling: str
    """How activations become a vector, in words."""
    dimensions: int
    """Of the vector."""
    lower: nn.Module
    """What computes them from images; `upper` makes logits of them, so that the network is computed once for both."""
    upper: nn.Module


def layer(predictor: Predictor, name: str) -> Layer:
    """Return the layer called `name`: `head`, or a stage. UserError where the network cannot be cut there."""
    module, structure = predictor.model.module, predictor.model.structure
    stages = structure.stages[:-1]
    names = (*stages, "head")
    if name not in names:
        raise user_error("features", name, f"one of {', '.join(names)}", names)
    below = stages if name == "head" else stages[: stages.index(name) + 1]
    if cut.reach(module, structure, below) != below:
        expected = f"a stage above which {predictor.model.name} can be cut, and it cannot be there"
        raise user_error("features", name, expected)
    lower, upper = cut.halves(module, structure, below)
    side = predictor.model.input.size
    with torch.inference_mode():
        one = lower(torch.zeros(1, 3, side, side, device=predictor.device))
    return Layer(name, pooling(one), pooled(one).shape[1], lower.eval(), upper.eval())


@dataclass(frozen=True)
class Answers:
    """What a network says of a batch of pictures."""

    rows: range
    """Which pictures these are."""
    probabilities: Tensor
    """`(N, classes)` float32 of those that can be read."""
    features: Tensor | None
    """`(N, D)` float32 of the same, where they are asked for."""
    errors: Mapping[int, str]
    """Why each of the others cannot be read, by row."""


def answers(
    predictor: Predictor,
    batches: Iterable[range],
    read: Callable[[int], Image.Image],
    *,
    features: Layer | None = None,
    show: Callable[[int, Tensor], object] | None = None,
) -> Iterator[Answers]:
    """Yield what the network says of the pictures of each batch; `read(row)` opens one, and raises where it is broken.

    They are decoded side by side, a batch ahead of the network, and kept as views only, so that memory holds two
    batches however large pictures are. `show` is given each row with the `(3, S, S)` uint8 that the network sees of it.
    """
    waiting: deque[tuple[range, list[Future[list[Tensor | str]]]]] = deque()
    pool = ThreadPoolExecutor(machine.cores())
    try:
        with at_most(predictor.config.data.max_pixels):
            for rows in batches:
                parts = (rows[start : start + _TASK] for start in range(0, len(rows), _TASK))
                waiting.append((rows, [pool.submit(_views, predictor, read, part) for part in parts]))
                if len(waiting) > 1:
                    yield _answer(predictor, *waiting.popleft(), features, show)
            while waiting:
                yield _answer(predictor, *waiting.popleft(), features, show)
    finally:
        pool.shutdown(cancel_futures=True)


def _views(predictor: Predictor, read: Callable[[int], Image.Image], rows: range) -> list[Tensor | str]:
    """Return what the network is shown of each picture, or why that cannot be read."""

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
    said, vectors = _passed(predictor, torch.stack(list(views.values())), features)
    return Answers(rows, probabilities_of(predictor, said), vectors, errors)


def probabilities_of(predictor: Predictor, logits: Tensor) -> Tensor:
    """Return `(B, classes)` for logits of the same shape; of each row they add up to 1, unless it is multi-label."""
    return class_probabilities(logits, several=predictor.multi_label)


def probabilities(predictor: Predictor, pictures: Sequence[Any], *, batch: int | None = None) -> Tensor:
    """Return `(N, classes)` float32 for files, Pillow's pictures, `(H, W, 3)` arrays or `(3, H, W)` tensors of uint8.

    They are shown as `predict` shows files, `batch` at once, by default as many as the run was evaluated on. UserError
    for what is no picture.
    """
    size, rows = batch or predictor.config.eval_batch_size, [torch.empty(0, len(predictor.classes))]
    with at_most(predictor.config.data.max_pixels):
        for start in range(0, len(pictures), size):
            views = [view(predictor, _pixels(predictor, picture)) for picture in pictures[start : start + size]]
            rows.append(probabilities_of(predictor, logits(predictor, torch.stack(views))))
    return torch.cat(rows)


def _pixels(predictor: Predictor, picture: Any) -> Tensor:
    """Return `(3, H, W)` uint8 of a picture in any of the forms that `probabilities` takes."""
    if isinstance(picture, str | Path):
        try:
            with open_anywhere(str(picture)) as opened:
                return tensor_of(opened, predictor.levels)[0]
        except Exception as error:  # a broken file makes Pillow raise anything
            if os.path.isdir(expanded(str(picture))):
                raise user_error("pictures", picture, "files: predict_table goes through a folder") from None
            raise UserError(f"{picture}: {why(error)}") from None
    pixels, found = picture, reprlib.repr(picture)
    if isinstance(picture, Image.Image):
        try:
            pixels = tensor_of(picture, predictor.levels)[0]
        except Exception as error:
            raise user_error("pictures", found, f"a picture that can be read ({why(error)})") from None
    elif isinstance(picture, np.ndarray) and picture.dtype == np.uint8 and picture.ndim == 3:
        pixels = torch.from_numpy(np.ascontiguousarray(picture)).movedim(-1, 0)
    if isinstance(picture, np.ndarray | Tensor):
        found = f"{picture.dtype} of shape {tuple(picture.shape)}"
    if not isinstance(pixels, Tensor) or pixels.dtype != torch.uint8 or pixels.ndim != 3 or len(pixels) != 3:
        raise user_error("pictures", found, "files, pictures of Pillow, (H, W, 3) arrays or (3, H, W) tensors of uint8")
    if 0 in pixels.shape:
        raise user_error("pictures", found, "pictures with pixels")
    return pixels.cpu()


def ranked(classes: Sequence[str], row: Tensor, top: int) -> dict[str, float]:
    """Return the `top` classes of one row of probabilities, the most probable first."""
    best = row.topk(min(top, len(classes)))
    return {classes[i]: p for p, i in zip(best.values.tolist(), best.indices.tolist(), strict=True)}
