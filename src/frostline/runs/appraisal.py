"""Appraise a backbone before training: transferability scores above each stage, from one pass over a sample."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from frostline.core import machine
from frostline.core.config import FreezeModeConfig
from frostline.core.errors import user_error
from frostline.core.labels import class_counts
from frostline.data.splits import Data, Split
from frostline.data.stratification import stratified
from frostline.models import cut
from frostline.models.mean_pooling import in_words, pooled, pooled_axes
from frostline.runs import frost_line, split_views
from frostline.runs.setup import Setup
from frostline.training.dataset import InMemory, prefetched
from frostline.training.evaluation import evaluating
from frostline.training.probe import Solution
from frostline.training.relative_gradient import relative_gradient_norms
from frostline.training.transferability import Scores, scores

_GRADIENT = (4, 16)  # number and size of batches for gradients: small enough for any memory that can train


@dataclass(frozen=True)
class Sample:
    """The images of an appraisal, the same for every backbone; never from the test split."""

    train: Tensor
    """`(N,)` int64: rows of the training split."""
    val: Tensor
    """`(M,)` int64: rows of the validation split."""


@dataclass(frozen=True)
class Border:
    """Scores of the activations above a stage, with everything below frozen."""

    stage: str
    """The last stage below."""
    pooling: str
    """How activations are pooled to a vector, in words."""
    dimensions: int
    knn: float
    """Accuracy on the validation images, a fraction in 0..1, as is `probe`."""
    probe: float
    logme: float
    """Nats per training image and class; comparable only between borders and backbones on the same sample."""
    right: tuple[bool, ...]
    """Which of the validation images the probe classifies correctly."""


@dataclass(frozen=True)
class Appraisal:
    """The result of one pass through a backbone."""

    parameters: int
    borders: tuple[Border, ...]
    """Bottom to top; the last one is the input of the head."""
    gradients: Mapping[str, float]
    """Relative gradient norm of each stage, with a solved head; empty if no solved head fits into the network."""
    groups: tuple[int, ...] | None
    """Group of each validation image; None without groups."""
    seconds: float
    """Seconds per image to make its view and compute everything below the head."""


def draw(data: Data, images: int, seed: int) -> Sample:
    """Return a stratified sample of at most `images` images, half of them for validation if there are enough.

    UserError if `images` is less than one training and one validation image per class.
    """
    classes = [int((class_counts(split.labels, len(data.classes)) > 0).sum()) for split in (data.train, data.val)]
    if images < 2 * max(classes):
        raise user_error("images", images, f"at least {2 * max(classes)}: two of each class, one for validation")
    val = min(images // 2, len(data.val))
    return Sample(_rows(data.train, min(images - val, len(data.train)), seed), _rows(data.val, val, seed))


def _rows(split: Split, count: int, seed: int) -> Tensor:
    return stratified(split.labels, split.ids, count, seed).nonzero()[:, 0]


def appraise(setup: Setup, sample: Sample, *, probe: FreezeModeConfig, knn: FreezeModeConfig) -> Appraisal:
    """Score the backbone of `setup`, in which only the head learns, on the sample.

    The strengths of the freeze mode `probe` and the numbers of neighbours of `knn` are tried. UserError for a network
    that cannot be cut above any stage.
    """
    setup.enter(0)
    passes = (("train", sample.train), ("val", sample.val))
    data, temperature = setup.data, knn.temperature
    assert temperature is not None
    seconds, (train, val) = machine.timed(setup.device, lambda: [_activations_of(setup, *each) for each in passes])
    found = {
        stage: scores(above, val[stage], len(data.classes), strengths=probe.l2, k=knn.k, temperature=temperature)
        for stage, above in train.items()
    }
    top = [*found][-1]
    return Appraisal(
        parameters=sum(parameter.numel() for parameter in setup.model.module.parameters()),
        borders=tuple(_border(stage, train[stage], scored) for stage, scored in found.items()),
        gradients=_gradients(setup, sample.train, train[top].tensor, found[top].head),
        groups=None if data.val.groups is None else tuple(data.val.groups[sample.val].tolist()),
        seconds=seconds / (len(sample.train) + len(sample.val)),
    )


class _Activations(InMemory):
    """The activations of a split above a stage, one vector per image."""

    def __init__(self, tensor: Tensor, labels: Tensor, pooling: str) -> None:
        super().__init__(tensor, labels)
        self.pooling = pooling


def _border(stage: str, train: _Activations, scored: Scores) -> Border:
    right = tuple(scored.right.tolist())
    return Border(stage, train.pooling, train.tensor.shape[1], scored.knn, scored.probe, scored.logme, right)


def _activations_of(setup: Setup, name: str, rows: Tensor) -> dict[str, _Activations]:
    """Return the activations of a split's `rows` above each stage at which the network can be cut, bottom to top."""
    module, structure = setup.model.module, setup.model.structure
    views = split_views.centred(setup, name, setup.data.splits[name])
    if not (parts := cut.segments(module, structure)):
        expected = f"a model that can be cut between its stages, which {setup.model.name} cannot be"
        raise user_error("model.name", setup.model.name, expected)
    frozen = {stage: frost_line.for_inference(setup, part) for stage, part in parts.items()}
    found: dict[str, list[Tensor]] = {stage: [] for stage in frozen}
    axes: dict[str, tuple[int, ...]] = {}
    for index in prefetched(views, rows.split(frost_line.batch_size_below(setup)), 1):
        activations = views.inputs(index, 1)
        for stage, part in frozen.items():
            activations = part(activations)
            axes[stage] = pooled_axes(activations.shape, module, structure)
            found[stage].append(pooled(activations, axes[stage]))
    labels = machine.select_rows(views.labels, rows)
    return {stage: _Activations(torch.cat(each), labels, in_words(axes[stage])) for stage, each in found.items()}


def _gradients(setup: Setup, rows: Tensor, top: Tensor, solved: Solution) -> dict[str, float]:
    """Return the relative gradient norm of every stage on some of the training images, with the `solved` head.

    `top` are the features for which the head was solved; empty if the network computes other logits from them.
    """
    if not _set_head(setup, top[:8], solved):
        return {}
    views, (count, size) = split_views.centred(setup, "train", setup.data.train), _GRADIENT
    spread = rows[torch.arange(0, len(rows), max(1, len(rows) // (count * size)))]
    batches = (
        (views.inputs(index, 1), machine.select_rows(views.labels, index)) for index in spread.split(size)[:count]
    )
    return relative_gradient_norms(setup.model.module, setup.model.structure.stage_of, batches, setup.autocast)


@torch.no_grad()
def _set_head(setup: Setup, top: Tensor, solved: Solution) -> bool:
    """Make the `solved` head the network's, and return whether it then says of `top` `(B, D)` what that head does."""
    module, structure, head = setup.model.module, setup.model.structure, setup.model.linear_head
    below = structure.stages[:-1]
    if head is None or head.weight.shape != solved.weight.shape:
        return False
    if cut.cuttable(module, structure, below) != below:
        return False
    head.weight.copy_(solved.weight)
    head.bias.copy_(solved.bias)
    upper, expected = cut.halves(module, structure, below)[1], F.linear(top, solved.weight, solved.bias)
    with evaluating(upper):
        return bool(torch.allclose(upper(top), expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max())))
