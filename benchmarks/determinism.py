"""Determinism: the same step twice for every network, and a whole run twice."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

import ours
from bench import Bench
from frostline.core import machine
from frostline.models.build import build
from frostline.models.torchvision_models import NAMES
from frostline.records import layout
from frostline.training import gradient, steps
from frostline.training.criterion import Targets
from images import CIFAR
from table import Row

_GIANTS = ("regnet_y_128gf", "vit_h_14")  # whose initial weights take minutes to draw


def determinism(bench: Bench) -> Iterator[Row]:
    """Measure how many networks take two equal steps, everything learning, and whether a run twice gives equal bits."""
    run = bench.chosen(bench.scale.full, bench.data(CIFAR, bench.scale.counts), freeze_mode="full", epochs=1)
    weights = []
    for folder in (bench.folder(), bench.folder()):
        ours.sweep([run], folder, mlflow=False)
        weights.append((folder / "0" / layout.BEST).read_bytes())
    yield bench.row(
        *("a run twice, of equal bits", f"{bench.scale.full}, full", float(weights[0] == weights[1])),
        note="1 if the best weights of both are the same bytes",
    )
    names = [name for name in NAMES if name not in _GIANTS] if bench.device.type == "cuda" else bench.scale.extracted
    precision = torch.bfloat16 if bench.device.type == "cuda" else None
    refused = {name: why for name in names if (why := _refusal(name, bench.device, precision))}
    yield bench.row(
        *("networks that take two equal steps", "everything learns", float(len(names) - len(refused))),
        theirs=f"of {len(names)}",
        note="; ".join(f"{name}: {why}" for name, why in refused.items()) or "with deterministic algorithms",
    )


def _refusal(name: str, device: torch.device, precision: torch.dtype | None) -> str:
    """Return why two identical steps of a network differ; empty if they do not."""
    machine.prepare_torch(deterministic=True, threads=None)
    try:
        one, other = _gradients(name, device, precision)
    except RuntimeError as error:
        return " ".join(str(error).split())[:150]
    return "" if all(torch.equal(*pair) for pair in zip(one, other, strict=True)) else "gradients differ"


def _gradients(name: str, device: torch.device, precision: torch.dtype | None) -> list[list[Tensor]]:
    model = build(name, weights=None, num_classes=10, seed=0, memory_format=torch.channels_last)
    module, side = model.module.to(device), model.input.size
    images = torch.randn(4, 3, side, side, device=device).contiguous(memory_format=torch.channels_last)
    labels = torch.arange(4, device=device)
    found = []
    for _ in range(2):
        module.zero_grad(set_to_none=True)
        steps.seed_dropout(images.device, 1)
        gradient.by_autograd(module, images, Targets(labels, labels, 1.0, 0.0), precision)
        found.append([parameter.grad.clone() for parameter in module.parameters() if parameter.grad is not None])
    return found
