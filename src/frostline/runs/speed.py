"""Inference speed of a trained network on this machine, and the bytes that each further task needs."""

from __future__ import annotations

from collections.abc import Hashable
from pathlib import Path

import torch

from frostline.core import machine
from frostline.core.config import KEPT
from frostline.records import layout
from frostline.runs.setup import Setup
from frostline.training.evaluation import evaluating
from frostline.training.neighbours import Neighbours
from frostline.training.state import Learner

_SIZES = (8, 32, 128, 512)
_LONG = 0.05  # seconds per forward pass from which on larger batches gain little
_KNOWN: dict[Hashable, float] = {}


def images_per_second(setup: Setup) -> float:
    """Return how many images per second the whole network of `setup` classifies, at the best batch size.

    Images are not read or decoded. Measured once per process for all runs with the same network; 0 if not even the
    smallest batch fits into the free GPU memory.
    """
    config, side, how = setup.config, setup.model.input.size, setup.config.freeze_mode.adapter
    kept = repr(how) if how.kind in KEPT else None  # others are merged by now
    network = (config.model.library, config.model.name, side, len(setup.data.classes), kept)
    key = (*network, setup.autocast, setup.device, setup.memory_format, config.eval_batch_size, config.threads)
    if key not in _KNOWN:
        _KNOWN[key] = _measured(setup, side)
    return _KNOWN[key]


@torch.inference_mode()
def _measured(setup: Setup, side: int) -> float:
    best = 0.0
    with evaluating(setup.model.module):
        for size in (size for size in _SIZES if size <= max(setup.config.eval_batch_size, _SIZES[0])):
            shape = (size, 3, side, side)
            try:
                images = torch.zeros(shape, device=setup.device).contiguous(memory_format=setup.memory_format)
                seconds = min(_seconds(setup, images) for _ in range(2))
            except torch.OutOfMemoryError:
                break
            best = max(best, size / seconds)
            if seconds > _LONG:
                break
    return best


def _seconds(setup: Setup, images: torch.Tensor) -> float:
    with machine.autocast(setup.device, setup.autocast):
        return machine.timed(setup.device, lambda: setup.model.module(images))[0]


def bytes_per_task(learner: Learner, folder: Path, voters: Neighbours | None) -> int:
    """Return the bytes that a task adds to a shared backbone: tensors that can change, or the adapter's files.

    For neighbours, their features and labels.
    """
    if voters is not None:
        return voters.nbytes
    if files := [*(folder / layout.ADAPTER).glob("*")]:
        return sum(file.stat().st_size for file in files)
    return sum(tensor.nbytes for name, tensor in learner.module.state_dict().items() if name in learner.mutable)
