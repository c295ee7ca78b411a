"""A trained network as its run left it, and what it says of pictures: the decoding and the view of the evaluation.

Nothing that a run left can run code: its config is read as plain YAML, its weights as safetensors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from frostline.core import machine, untrusted
from frostline.core.config import Config
from frostline.core.errors import UserError, user_error
from frostline.core.labels import class_probabilities
from frostline.core.validation import read_config
from frostline.data.bit_depth import Levels, of_record
from frostline.data.decode_image import at_most, read_picture, tensor_of
from frostline.data.resize import CenterCrop, center_crop
from frostline.models import build, weights
from frostline.models.build import Model
from frostline.records import layout
from frostline.records.layout import BEST, CONFIG
from frostline.store import hashing


@dataclass(frozen=True)
class Predictor:
    """A network in eval mode on its device, and how pictures are shown to it."""

    model: Model
    classes: tuple[str, ...]
    config: Config
    device: torch.device
    levels: Levels
    """How values of more than 8 bits were shown to it."""
    multi_label: bool = False
    """Whether a picture may be of several classes, or of none."""

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
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{file}: expected all weights of {config.model.name} ({reason})") from None
    told = (
        untrusted.mapping(folder / layout.PROVENANCE).get("weights") if (folder / layout.PROVENANCE).exists() else None
    )
    if isinstance(told, dict) and told.get("final") not in (None, hashing.of_file(file)):
        raise UserError(f"{file}: expected the weights that the run has written, and these were changed since")
    memory_format = machine.memory_format(channels_last=config.channels_last)
    model.module.eval().to(place).to(memory_format=memory_format)
    return Predictor(model, classes, config, place, shown, meta.get("multi_label") is True)


def view(predictor: Predictor, picture: Tensor) -> Tensor:
    """Return `(3, S, S)` uint8: what the network is shown of a picture `(3, H, W)` uint8 of any size."""
    return center_crop(picture[None], predictor.center)[0]


@torch.inference_mode()
def logits(predictor: Predictor, views: Tensor) -> Tensor:
    """Return `(B, classes)` float32 on the CPU for views `(B, 3, S, S)` uint8, in the precision of the run."""
    dtype = machine.autocast_dtype(predictor.config.precision, predictor.device)
    memory_format = machine.memory_format(channels_last=predictor.config.channels_last)
    inputs = predictor.model.input.normalise(views.to(predictor.device).float())
    inputs = inputs.contiguous(memory_format=memory_format)
    with machine.mixed(predictor.device, dtype):
        outputs: Tensor = predictor.model.module(inputs)
    return outputs.float().cpu()


def predict(
    predictor: Predictor, files: Sequence[Path], *, batch: int, show: Callable[[Path, Tensor], object] | None = None
) -> Iterator[tuple[Path, Tensor | OSError]]:
    """Yield each file with its logits `(classes,)`, or with the error where it is no picture that can be read.

    Pictures are decoded side by side and kept as views only, so that memory holds `batch` of them however large.
    `show` is given each file with the `(3, S, S)` uint8 that the network sees of it.
    """

    def look(file: Path) -> Tensor | OSError:
        try:
            return view(predictor, read_picture(file, predictor.levels))
        except OSError as error:
            return error

    with ThreadPoolExecutor() as pool:
        for start in range(0, len(files), batch):
            part = files[start : start + batch]
            with at_most(predictor.config.data.max_pixels):
                seen = list(pool.map(look, part))
            readable = [views for views in seen if isinstance(views, Tensor)]
            for file, views in zip(part, seen, strict=True):
                if show is not None and isinstance(views, Tensor):
                    show(file, views)
            rows = iter(logits(predictor, torch.stack(readable)) if readable else ())
            for file, views in zip(part, seen, strict=True):
                yield file, next(rows) if isinstance(views, Tensor) else views


@torch.inference_mode()
def probabilities(predictor: Predictor, pictures: Sequence[Any], *, batch: int | None = None) -> Tensor:
    """Return `(N, classes)` float32 for files, Pillow's pictures, `(H, W, 3)` arrays or `(3, H, W)` tensors of uint8.

    They are shown as `predict` shows files, `batch` at once, by default as many as the run was evaluated on. UserError
    for what is no picture.
    """
    size, rows = batch or predictor.config.eval_batch_size, [torch.empty(0, len(predictor.classes))]
    with at_most(predictor.config.data.max_pixels):
        for start in range(0, len(pictures), size):
            views = [view(predictor, _pixels(predictor, picture)) for picture in pictures[start : start + size]]
            rows.append(chances(predictor, logits(predictor, torch.stack(views))))
    return torch.cat(rows)


def _pixels(predictor: Predictor, picture: Any) -> Tensor:
    """Return `(3, H, W)` uint8 of a picture in any of the forms that `probabilities` takes."""
    if isinstance(picture, Image.Image):
        return tensor_of(picture, predictor.levels)[0]
    if isinstance(picture, str | Path):
        try:
            return read_picture(Path(picture), predictor.levels)
        except OSError as error:
            raise UserError(str(error)) from None
    pixels = picture if isinstance(picture, Tensor) else torch.from_numpy(np.ascontiguousarray(picture)).movedim(-1, 0)
    if pixels.dtype != torch.uint8 or pixels.ndim != 3 or len(pixels) != 3:
        found = f"{pixels.dtype} of shape {tuple(picture.shape)}"
        raise user_error("pictures", found, "files, pictures of Pillow, (H, W, 3) arrays or (3, H, W) tensors of uint8")
    return pixels


def chances(predictor: Predictor, rows: Tensor) -> Tensor:
    """Return the probabilities `(B, classes)` of logits; of each row they add up to 1, unless it is multi-label."""
    return class_probabilities(rows, several=predictor.multi_label)


def ranked(predictor: Predictor, row: Tensor, top: int) -> dict[str, float]:
    """Return the `top` classes of one row of logits with their probabilities, the most probable first."""
    best = chances(predictor, row[None])[0].topk(min(top, len(predictor.classes)))
    return {predictor.classes[i]: p for p, i in zip(best.values.tolist(), best.indices.tolist(), strict=True)}
