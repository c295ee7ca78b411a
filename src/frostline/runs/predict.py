"""Load the network of a finished run and classify images, decoded and preprocessed as in the run's evaluation.

No file of a run can run code: the config is read as plain YAML, weights as safetensors.
"""

from __future__ import annotations

import os
import reprlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from frostline.core import machine, untrusted
from frostline.core.config import Config
from frostline.core.errors import UserError, user_error
from frostline.core.files import expanded
from frostline.core.labels import class_probabilities
from frostline.core.validation import read_config
from frostline.data.bit_depth import Levels, of_record
from frostline.data.decode_image import tensor_of
from frostline.data.open_image import at_most, open_anywhere, why
from frostline.data.resize import CenterCrop, center_crop
from frostline.models import build, cut, weights
from frostline.models.build import Model
from frostline.models.mean_pooling import pooled, pooled_axes
from frostline.records import layout
from frostline.records.layout import BEST, CONFIG
from frostline.store import hashing


@dataclass(frozen=True)
class Predictor:
    """A network in eval mode on its device, with its classes and preprocessing."""

    model: Model
    classes: tuple[str, ...]
    config: Config
    device: torch.device
    levels: Levels
    """How values of more than 8 bits are converted to 8 bits."""
    digest: str
    """sha256 (hex) of its weights file."""
    multi_label: bool = False
    """Whether an image may have several classes, or none."""

    def prepare(self) -> None:
        """Set torch's threads and determinism in this process to those of the run."""
        machine.prepare_torch(deterministic=self.config.deterministic, threads=self.config.threads)

    @property
    def center(self) -> CenterCrop:
        """The resize and centre crop of an image for the network."""
        return CenterCrop.of(self.model.input)


def load(folder: Path, *, device: str) -> Predictor:
    """Return the network of the run in `folder` with the weights of its best epoch.

    `device` is `auto`, `cpu`, `cuda` or `cuda:<n>`. UserError if files are missing, damaged, or not of a run.
    """
    config = read_config(folder / CONFIG)
    place = machine.device(device)
    machine.prepare_torch(deterministic=config.deterministic, threads=config.threads)
    file = folder / BEST
    meta = weights.metadata_of(file)
    if meta.get("model") != config.model.name:
        raise UserError(f"{file}: expected weights of {config.model.name} written by a run of frostline")
    classes = tuple(map(str, meta["classes"]))
    try:
        levels = of_record(meta.get("levels"))
    except ValueError as error:
        raise UserError(f"{file}: expected weights written by a run of frostline; its header says {error}") from None
    model = build.trained(file, config.model.name, config.model.library)
    origin, digest = folder / layout.PROVENANCE, hashing.of_file(file)
    told = untrusted.mapping(origin).get("weights") if origin.exists() else None
    if isinstance(told, dict) and told.get("final") not in (None, digest):
        raise UserError(f"{file}: expected the weights that the run wrote, but the file was changed since")
    memory_format = machine.memory_format(channels_last=config.channels_last)
    model.module.eval().to(place).to(memory_format=memory_format)
    return Predictor(model, classes, config, place, levels, digest, meta.get("multi_label") is True)


def view(predictor: Predictor, image: Tensor) -> Tensor:
    """Return the network's view `(3, S, S)` uint8 of an image `(3, H, W)` uint8 of any size."""
    return center_crop(image[None], predictor.center)[0]


def logits(predictor: Predictor, views: Tensor) -> Tensor:
    """Return logits `(B, classes)` float32 on the CPU for views `(B, 3, S, S)` uint8, in the precision of the run."""
    return with_features(predictor, views, None)[0]


@torch.inference_mode()
def with_features(predictor: Predictor, views: Tensor, features: Layer | None) -> tuple[Tensor, Tensor | None]:
    """Return the `logits` of views and, if a layer is given, its features `(B, D)` float32 on the CPU."""
    dtype = machine.autocast_dtype(predictor.config.precision, predictor.device)
    memory_format = machine.memory_format(channels_last=predictor.config.channels_last)
    inputs = predictor.model.input.normalise(views.to(predictor.device).float())
    inputs = inputs.contiguous(memory_format=memory_format)
    with machine.autocast(predictor.device, dtype):
        if features is None:
            return predictor.model.module(inputs).float().cpu(), None
        activations = features.lower(inputs)
        outputs: Tensor = features.upper(activations)
    return outputs.float().cpu(), pooled(activations, features.axes).cpu()


@dataclass(frozen=True)
class Layer:
    """The layer of a network from which features are taken."""

    name: str
    """`head` for the inputs of the head, else the last stage below."""
    axes: tuple[int, ...]
    """The axes of its activations over which the mean is taken."""
    dimensions: int
    """Length of the vector."""
    lower: nn.Module
    """Computes features from images; `upper` computes logits from them, so that the network runs once for both."""
    upper: nn.Module


def layer(predictor: Predictor, name: str) -> Layer:
    """Return the layer called `name`: `head`, or a stage. UserError if the network cannot be cut there."""
    module, structure = predictor.model.module, predictor.model.structure
    stages = structure.stages[:-1]
    names = (*stages, "head")
    if name not in names:
        raise user_error("features", name, f"one of {', '.join(names)}", names)
    below = stages if name == "head" else stages[: stages.index(name) + 1]
    if cut.cuttable(module, structure, below) != below:
        expected = f"a stage above which {predictor.model.name} can be cut"
        raise user_error("features", name, expected)
    lower, upper = cut.halves(module, structure, below)
    side = predictor.model.input.size
    with torch.inference_mode():
        one = lower(torch.zeros(1, 3, side, side, device=predictor.device))
    axes = pooled_axes(one.shape, module, structure)
    return Layer(name, axes, pooled(one, axes).shape[1], lower.eval(), upper.eval())


def probabilities_of(predictor: Predictor, logits: Tensor) -> Tensor:
    """Return probabilities `(B, classes)` for logits of the same shape; rows sum to 1 unless multi-label."""
    return class_probabilities(logits, several=predictor.multi_label)


def probabilities(predictor: Predictor, images: Sequence[Any], *, batch: int | None = None) -> Tensor:
    """Return probabilities `(N, classes)` of files, PIL images, uint8 arrays `(H, W, 3)` or tensors `(3, H, W)`.

    The result is float32. Images are preprocessed as in the command `predict`, `batch` at once, by default the run's
    `eval_batch_size`. UserError for anything that is not an image.
    """
    size, rows = batch or predictor.config.eval_batch_size, [torch.empty(0, len(predictor.classes))]
    with at_most(predictor.config.data.max_pixels):
        for start in range(0, len(images), size):
            views = [view(predictor, _pixels(predictor, image)) for image in images[start : start + size]]
            rows.append(probabilities_of(predictor, logits(predictor, torch.stack(views))))
    return torch.cat(rows)


def _pixels(predictor: Predictor, image: Any) -> Tensor:
    """Return the pixels `(3, H, W)` uint8 of an image in any of the forms that `probabilities` accepts."""
    if isinstance(image, str | Path):
        try:
            with open_anywhere(str(image)) as opened:
                return tensor_of(opened, predictor.levels)[0]
        except Exception as error:  # a broken file makes Pillow raise anything
            if os.path.isdir(expanded(str(image))):
                raise user_error("images", image, "files: predict_table goes through a folder") from None
            raise UserError(f"{image}: {why(error)}") from None
    pixels, found = image, reprlib.repr(image)
    if isinstance(image, Image.Image):
        try:
            pixels = tensor_of(image, predictor.levels)[0]
        except Exception as error:
            raise user_error("images", found, f"an image that can be read ({why(error)})") from None
    elif isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.ndim == 3:
        pixels = torch.from_numpy(np.ascontiguousarray(image)).movedim(-1, 0)
    if isinstance(image, np.ndarray | Tensor):
        found = f"{image.dtype} of shape {tuple(image.shape)}"
    if not isinstance(pixels, Tensor) or pixels.dtype != torch.uint8 or pixels.ndim != 3 or len(pixels) != 3:
        raise user_error("images", found, "files, PIL images, (H, W, 3) arrays or (3, H, W) tensors of uint8")
    if 0 in pixels.shape:
        raise user_error("images", found, "images with pixels")
    return pixels.cpu()


def ranked(classes: Sequence[str], row: Tensor, top: int) -> dict[str, float]:
    """Return the `top` classes of one row of probabilities, the most probable first."""
    best = row.topk(min(top, len(classes)))
    return {classes[i]: p for p, i in zip(best.values.tolist(), best.indices.tolist(), strict=True)}
