"""The frost line of a phase: where it cuts the network, and what is computed once because it lies below."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import Any

import torch
import torchvision
from torch import nn

from frostline.core import codehash, machine, memory, plugins
from frostline.data.views import Views
from frostline.models import cut, freezing, fuse
from frostline.runs.setup import Setup
from frostline.store import hashing
from frostline.training.dataset import Dataset, Outputs, outputs
from frostline.training.evaluation import Evaluation, evaluate, evaluating
from frostline.training.features import Backbone, Features, Part, Passing
from frostline.training.steps import TrainedPart

_CODE = ("runs.frost_line", "runs.split_views", "models.build")
"""What draws the line and computes below it, what makes the views, and what builds the network."""


@dataclass(frozen=True)
class Line:
    """The frost line of one phase; where nothing lies below, everything is as if there were none."""

    above: Callable[[nn.Module], nn.Module]
    """Returns what is left of a network above the line."""
    read: Callable[[Views], Dataset]
    """Returns what goes into that: the features of a split, or its images."""
    autocast: torch.dtype | None
    """Type of the mixed precision above the line; a head alone is cheap, and learns in float32."""
    kept: bool
    """Whether what lies below is computed once per view, not whenever it is asked for."""
    by: Callable[[Views], Outputs]
    """Returns who evaluates a split, for `evaluate`."""
    below: Callable[[], Backbone] | None = None
    """Returns what lies below; None where nothing does."""


def draw(setup: Setup, phase: int, *, keep: bool = True) -> Line:
    """Put the model into the state of a phase, and return the line that this draws through it.

    Whether features are kept, which they are with `keep` and where there is room, makes no difference to a bit.
    """
    setup.enter(phase)
    module, structure, images = setup.model.module, setup.model.structure, setup.images
    below = cut.reach(module, structure, cut.stages_below(structure, setup.phases[phase]))
    if not below:
        return _none(setup, phase)
    head_alone = cut.head_alone(structure, below)
    lower, upper = cut.halves(module, structure, below)
    kept = keep and setup.config.features.enabled and (head_alone or _fits(setup, lower))
    backbone = functools.cache(functools.partial(for_inference, setup, lower))
    identity = _identity(setup, below, lower) if kept else {}

    def above(network: nn.Module) -> nn.Module:
        return upper if network is module else cut.halves(network, structure, below)[1]

    @functools.cache
    def features(views: Views) -> Features:
        about = f"{setup.config.data.name} {views.identity['split']} through {below[-1]} of {setup.model.name}"
        every = {**identity, **views.identity}
        by = None if setup.follows else setup.ranks.computing(phase, views) if setup.ranks else outputs
        return Features(views, backbone, store=setup.store, room=setup.room, identity=every, about=about, outputs=by)

    def read(views: Views) -> Dataset:
        if not kept:
            return Passing(views, backbone)
        if images.whole is None or views not in (images.train, images.val, images.test):  # as corrupted ones are not
            return features(views)
        return Part(features(images.whole), torch.searchsorted(images.whole.ids, views.ids), views.labels)

    by = _alone if kept and head_alone else _who_scores(setup, phase, keep)
    return Line(above, read, None if head_alone else setup.autocast, kept, by, backbone)


def score(setup: Setup, line: Line, views: Views, instead: nn.Module | None = None) -> Evaluation:
    """Return how the model, as it is and with this line through it, does on a split.

    `instead` classifies in place of what lies above the line.
    """
    network, by = (instead, outputs) if instead else (line.above(setup.model.module), line.by(views))
    size = setup.recipe.eval_batch_size
    return evaluate(network, line.read(views), batch_size=size, autocast=line.autocast, by=by)


def _alone(views: Views) -> Outputs:
    """Return that this process scores a split: the answer of a head takes less time than to speak of it."""
    return outputs


def _who_scores(setup: Setup, phase: int, keep: bool) -> Callable[[Views], Outputs]:
    return _alone if setup.ranks is None else functools.partial(setup.ranks.scoring, phase, keep)


def part(setup: Setup, phase: int, averaged: nn.Module | None) -> TrainedPart:
    """Enter a phase and return what is trained there; `averaged` is evaluated if there is one.

    Mixed images are no function of a single one, so with mixup or CutMix the whole network is trained on images.
    """
    line = draw(setup, phase)
    module, images, options = setup.model.module, setup.images, setup.config.train
    train = _none(setup, phase) if options.mixup or options.cutmix else line
    scored = module if averaged is None else averaged
    val = line if averaged is None or _agree(setup, phase, averaged) else _none(setup, phase)
    return TrainedPart(
        network=train.above(module),
        train=train.read(images.train),
        autocast=train.autocast,
        scored=val.above(scored),
        val=val.read(images.val),
        val_autocast=val.autocast,
        weights=setup.image_weights,
        val_by=val.by(images.val),
    )


def _agree(setup: Setup, phase: int, averaged: nn.Module) -> bool:
    """Return whether averaged weights are those of the network below the line: not after these have learned."""
    module, structure = setup.model.module, setup.model.structure
    below, theirs = cut.stages_below(structure, setup.phases[phase]), averaged.state_dict()
    known = ((name, tensor) for name, tensor in module.state_dict().items() if structure.lies_in_one(name))
    return all(torch.equal(tensor, theirs[name]) for name, tensor in known if structure.stage_of(name) in below)


def _none(setup: Setup, phase: int) -> Line:
    memory.keep_freed(setup.device)
    by = _who_scores(setup, phase, True)
    return Line(lambda network: network, lambda views: views, setup.autocast, False, by)


def for_inference(setup: Setup, lower: nn.Module) -> Backbone:
    """Return frozen stages for inference: as they are in float32, for the same bits, else the fast copy."""
    memory.keep_freed(setup.device)
    if setup.autocast is None:
        return Backbone(lower, setup.device, torch.float32)
    fast = fuse.fast_copy(lower, setup.autocast, setup.device, setup.memory_format)
    return Backbone(fast, setup.device, setup.autocast)


@torch.inference_mode()
def _fits(setup: Setup, lower: nn.Module) -> bool:
    """Return whether the features of an epoch fit into memory, and those of all views into half of the store."""
    side, images = setup.model.input.size, setup.images
    with evaluating(lower):
        one = lower(torch.zeros(1, 3, side, side, device=setup.device))
    samples = len(images.train.labels) + len(images.val.labels)
    size = samples * one.numel() * (setup.autocast or torch.float32).itemsize
    distinct = len({images.train.view_of(epoch) for epoch in range(1, setup.config.epochs + 1)})
    return size <= setup.room.budget and size * distinct <= setup.store.half


def _identity(setup: Setup, below: tuple[str, ...], lower: nn.Module) -> dict[str, Any]:
    """Return what features depend on beside the views, as JSON-able facts."""
    adapted = any(freezing.ADAPTER in part._modules for part in lower.modules())  # frozen, which no tensor tells
    return {
        "model": setup.model.name,
        "plugin": plugins.identity(plugins.MODELS, setup.model.name),
        "input": asdict(setup.model.input),
        "below": below,
        "adapter": asdict(setup.config.freeze_mode.adapter) if adapted else None,
        "weights": hashing.of_tensors(lower.state_dict(keep_vars=True)),
        "precision": str(setup.autocast or torch.float32),
        "channels_last": setup.config.channels_last,
        "code": codehash.of(*_CODE),
        "deterministic": setup.config.deterministic,
        "platform": machine.platform(setup.device),
        "torchvision": torchvision.__version__,
        "library": f"{setup.model.library} {version(setup.model.library)}",
    }
