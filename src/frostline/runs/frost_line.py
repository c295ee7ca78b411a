"""The frost line of a phase: the cut between frozen and learning stages, and the features cached below it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
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
from frostline.training.evaluation import EvaluatedPart, Evaluation, evaluating
from frostline.training.features import Backbone, Features, Subset, UncachedFeatures, frozen_batch_size
from frostline.training.steps import PhaseParts, TrainedPart

_CODE = ("runs.frost_line", "runs.split_views", "models.build")
"""Modules whose source is part of the key of cached features: cut and features, views, network."""


@dataclass(frozen=True)
class Line:
    """The frost line of one phase; with no stage below it, the whole network trains on images."""

    above: Callable[[nn.Module], nn.Module]
    """Returns the part of a network above the line."""
    dataset: Callable[[Views], Dataset]
    """Returns the inputs of that part: the features of a split, or its images."""
    autocast: torch.dtype | None
    """Mixed-precision type above the line; None for float32, in which a head alone learns since it is cheap."""
    cached: bool
    """Whether the output of the stages below is computed once per view and kept, not on every access."""
    outputs: Callable[[Views], Outputs]
    """Returns the function with which `evaluate` computes the outputs of a split."""
    below: Callable[[], Backbone] | None = None
    """Returns the stages below the line; None if there are none."""

    def evaluated(self, network: nn.Module, views: Views) -> EvaluatedPart:
        """Return the part of `network` above the line, to be evaluated on a split."""
        return EvaluatedPart(self.above(network), self.dataset(views), self.autocast, self.outputs(views))


def draw(setup: Setup, phase: int, *, cache: bool = True) -> Line:
    """Put the model into the state of a phase and return the frost line of this phase.

    Features are cached if `cache` is set and they fit; results are the same bits whether or not they are cached.
    """
    setup.enter(phase)
    module, structure, splits = setup.model.module, setup.model.structure, setup.views
    below = cut.cuttable(module, structure, cut.stages_below(structure, setup.phases[phase]))
    if not below:
        return _whole_network(setup, phase)
    head_alone = cut.head_alone(structure, below)
    lower, upper = cut.halves(module, structure, below)
    cached = cache and setup.config.features.enabled and (head_alone or _fits(setup, lower))
    backbone = functools.cache(functools.partial(for_inference, setup, lower))
    identity = _identity(setup, below, lower) if cached else {}
    features = functools.cache(functools.partial(_features, setup, phase, backbone, identity))

    def above(network: nn.Module) -> nn.Module:
        return upper if network is module else cut.halves(network, structure, below)[1]

    def dataset(views: Views) -> Dataset:
        if not cached:
            return UncachedFeatures(views, backbone, batch_size=batch_size_below(setup))
        if splits.whole is None or views not in (splits.train, splits.val, splits.test):  # e.g. corrupted ones
            return features(views)
        return Subset(features(splits.whole), torch.searchsorted(splits.whole.ids, views.ids), views.labels)

    by = _scoring(setup, phase, cache=cache, here=cached and head_alone)
    return Line(above, dataset, None if head_alone else setup.autocast, cached, by, backbone)


def _features(
    setup: Setup, phase: int, backbone: Callable[[], Backbone], identity: Mapping[str, Any], views: Views
) -> Features:
    """Return the features of views, computed by all processes of the run together."""
    by = None if setup.is_follower else setup.ranks.sharing(views, "compute", phase) if setup.ranks else outputs
    about = f"{setup.config.data.name} {views.identity['split']} through {identity['below'][-1]} of {setup.model.name}"
    return Features(
        views,
        backbone,
        batch_size=batch_size_below(setup),
        store=setup.store,
        device_budget=setup.device_budget,
        identity={**identity, **views.identity},
        about=about,
        outputs=by,
    )


def batch_size_below(setup: Setup) -> int:
    """Return the batch size of the stages below a frost line, which decides the last bits of features."""
    return frozen_batch_size(setup.device, setup.config.eval_batch_size)


def score(setup: Setup, line: Line, views: Views, voters: nn.Module | None = None) -> Evaluation:
    """Evaluate the model in its current state on a split, with this frost line.

    `voters` classify instead of the layers above the line.
    """
    module = setup.model.module
    part = EvaluatedPart(voters, line.dataset(views), line.autocast) if voters else line.evaluated(module, views)
    return part.evaluate(setup.recipe.eval_batch_size)


def _scoring(setup: Setup, phase: int, *, cache: bool = True, here: bool = False) -> Callable[[Views], Outputs]:
    """Return `Line.outputs`, in this process alone if `here`: a head computes faster than ranks can communicate."""
    ranks = None if here else setup.ranks
    return lambda views: outputs if ranks is None else ranks.sharing(views, "evaluate", phase, cache)


def parts(setup: Setup, phase: int, averaged: nn.Module | None) -> PhaseParts:
    """Enter a phase and return the parts that are trained and evaluated in it; `averaged` is evaluated if given.

    If the recipe mixes images, the whole network trains on images.
    """
    line = draw(setup, phase)
    module, splits = setup.model.module, setup.views
    train = _whole_network(setup, phase) if setup.recipe.mixes else line
    val = line if averaged is None or _agree(setup, phase, averaged) else _whole_network(setup, phase)
    trained = TrainedPart(train.above(module), train.dataset(splits.train), train.autocast, setup.image_weights)
    return PhaseParts(trained, val.evaluated(module if averaged is None else averaged, splits.val))


def _agree(setup: Setup, phase: int, averaged: nn.Module) -> bool:
    """Return whether averaged weights equal the network's below the line; they differ if these learned earlier."""
    module, structure = setup.model.module, setup.model.structure
    below, theirs = cut.stages_below(structure, setup.phases[phase]), averaged.state_dict()
    known = ((name, tensor) for name, tensor in module.state_dict().items() if structure.in_one_stage(name))
    return all(torch.equal(tensor, theirs[name]) for name, tensor in known if structure.stage_of(name) in below)


def _whole_network(setup: Setup, phase: int) -> Line:
    memory.keep_freed(setup.device)
    return Line(lambda network: network, lambda views: views, setup.autocast, False, _scoring(setup, phase))


def for_inference(setup: Setup, lower: nn.Module) -> Backbone:
    """Return frozen stages for inference: unchanged in float32, so that bits stay the same, else a fused copy."""
    memory.keep_freed(setup.device)
    if setup.autocast is None:
        return Backbone(lower, setup.device, torch.float32)
    fast = fuse.fast_copy(lower, setup.autocast, setup.device, setup.memory_format)
    return Backbone(fast, setup.device, setup.autocast)


@torch.inference_mode()
def _fits(setup: Setup, lower: nn.Module) -> bool:
    """Return whether the features of one epoch fit into memory, and the features of all views into half the store."""
    side, splits = setup.model.input.size, setup.views
    with evaluating(lower):
        one = lower(torch.zeros(1, 3, side, side, device=setup.device))
    samples = len(splits.train.labels) + len(splits.val.labels)
    size = samples * one.numel() * (setup.autocast or torch.float32).itemsize
    distinct = len({splits.train.view_of(epoch) for epoch in range(1, setup.config.epochs + 1)})
    return size <= setup.device_budget.total and size * distinct <= setup.store.room_per_kind


def _identity(setup: Setup, below: tuple[str, ...], lower: nn.Module) -> dict[str, Any]:
    """Return everything that features depend on besides the views, as JSON-serialisable values."""
    adapted = any(freezing.ADAPTER in part._modules for part in lower.modules())  # tensors do not tell its kind
    return {
        "model": setup.model.name,
        "plugin": plugins.identity(plugins.MODELS, setup.model.name),
        "input": asdict(setup.model.input),
        "below": below,
        "adapter": asdict(setup.config.freeze_mode.adapter) if adapted else None,
        "weights": hashing.of_tensors(lower.state_dict(keep_vars=True)),
        "batch_size": batch_size_below(setup),
        "precision": str(setup.autocast or torch.float32),
        "channels_last": setup.config.channels_last,
        "code": codehash.of(*_CODE),
        "deterministic": setup.config.deterministic,
        "platform": machine.platform(setup.device),
        "torchvision": torchvision.__version__,
        "library": f"{setup.model.library} {version(setup.model.library)}",
    }
