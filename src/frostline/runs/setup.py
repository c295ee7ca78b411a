"""Set up a run: from its config to checked data, model and phases."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from frostline.core import machine, memory
from frostline.core.config import Config
from frostline.core.errors import user_error
from frostline.core.input_spec import InputSpec
from frostline.core.labels import class_counts
from frostline.core.metrics import BALANCED_ACCURACY, MACRO_F1, METRICS
from frostline.data.names import some
from frostline.data.splits import Data
from frostline.models import build, cut, freezing, lookup
from frostline.models.build import Model
from frostline.models.freezing import Phase
from frostline.report.metric_scores import RANKED
from frostline.report.terminal import Screen
from frostline.runs import network_cache
from frostline.runs.initial_weights import Fetch, as_typed, no_runs, on_disk, weights_of
from frostline.runs.run_data import load_data, store_of
from frostline.runs.split_views import SplitViews, views_of
from frostline.store.device_budget import DeviceBudget
from frostline.store.store import Store
from frostline.training import dataset, optim, schedule
from frostline.training.criterion import Criterion
from frostline.training.gradient import linear_of
from frostline.training.ranks import Ranks
from frostline.training.schedule import Rates, Span
from frostline.training.steps import Recipe


@dataclass(frozen=True)
class Setup:
    """Data, model, phases and everything else that a run works with."""

    config: Config
    data: Data
    device: torch.device
    model: Model
    phases: tuple[Phase, ...]
    timeline: tuple[Span, ...]
    param_groups: list[dict[str, Any]]
    steps_per_epoch: int
    recipe: Recipe
    autocast: torch.dtype | None
    """Mixed-precision type, None for float32 throughout."""
    device_budget: DeviceBudget
    """Memory budget of pixels and features on the device; what does not fit is read as needed."""
    store: Store
    weights: str | None
    """Source of the network's weights: `config.model.weights`, or the fetched file if that names a run."""
    ranks: Ranks | None = None
    """The other processes of a run on several devices."""
    is_follower: bool = False
    """Whether this process is one of these: it computes what it is ordered to, and reads the rest from the store."""

    @property
    def memory_format(self) -> torch.memory_format:
        """The memory format of images and weights."""
        return machine.memory_format(channels_last=self.config.channels_last)

    @property
    def rates(self) -> Rates:
        """The learning rates of the run."""
        return Rates(self.config.schedule, self.config.lr, self.config.epochs * self.steps_per_epoch)

    @functools.cached_property
    def views(self) -> SplitViews:
        """The views of the splits, on the device; a copy of the setup counts the images it uses from 0."""
        return views_of(self)

    @functools.cached_property
    def image_weights(self) -> Tensor | None:
        """Weights of the training images, `(N,)` float32 on the device; None for equal weights."""
        weights = self.data.train.weights
        return None if weights is None else weights.to(self.device)

    def enter(self, phase: int) -> None:
        """Put the model into the state of a phase."""
        norm_stats = self.config.freeze_mode.norm_stats
        freezing.freeze(self.model.module, self.model.structure, self.phases[phase], norm_stats=norm_stats)


def assemble(
    config: Config,
    folder: Path,
    *,
    meta: bool,
    screen: Screen,
    fetch: Fetch = no_runs,
) -> Setup:
    """Assemble the setup of a run, with the model on the meta device if `meta`.

    Sets torch's determinism and threads.
    """
    device = machine.device(config.device, devices=config.devices)
    processes = config.devices if device.type == "cpu" else 1
    machine.prepare_torch(deterministic=config.deterministic, threads=config.threads, processes=processes)
    memory.reset_peak(device)
    machine.require_kernels(device)
    store = store_of(config, screen.say)
    source = weights_of(config, folder, fetch)
    data, model, phases, batches = parts(config, source, store, meta=meta, screen=screen)
    if not meta:
        model.module.to(device)
    steps = len(batches)
    return Setup(
        config=config,
        data=data,
        device=device,
        model=model,
        phases=phases,
        timeline=schedule.spans([phase.share for phase in phases], epochs=config.epochs, steps_per_epoch=steps),
        param_groups=param_groups_of(config, model, phases),
        steps_per_epoch=steps,
        recipe=recipe(config, data),
        autocast=machine.autocast_dtype(config.precision, device),
        device_budget=DeviceBudget(device, memory.budget(device, config.store.memory_gb, processes=processes)),
        store=store,
        weights=source,
    )


def param_groups_of(config: Config, model: Model, phases: Sequence[Phase]) -> list[dict[str, Any]]:
    """Return the optimizer's param groups: the parameters that learn in some phase, as they are now (e.g. sharded)."""
    how, module, structure = config.optimizer, model.module, model.structure
    both = how.decay_norm_and_bias
    return optim.param_groups(module, structure, phases, weight_decay=how.weight_decay, decay_norm_and_bias=both)


def parts(
    config: Config, source: str | None, store: Store, *, meta: bool, screen: Screen
) -> tuple[Data, Model, tuple[Phase, ...], list[slice]]:
    """Return the parts of a run: data, the model with the weights `source`, its phases and the batches of an epoch.

    With `meta`, weights that would have to be downloaded are not read.
    """
    with as_typed(config, source):
        data = load_data(config, input_of(config, source), store, screen)
        model = None if meta else network_cache.take(config, source, data.classes)
        if model is None:
            model = build_model(config, source, data.classes, meta=meta and not on_disk(config.model.weights))
    if config.freeze_mode.adapter.kind != "none":
        model = build.with_adapters(model, config.freeze_mode.adapter, seed=config.seed)
    if config.freeze_mode.solver is not None:
        _require_solvable(config, model, data)
    class_weights(config, data)  # raises for names of unknown classes
    _require_selectable(config, data)
    phases = freezing.resolve(model.module, model.structure, config.freeze_mode.phases, config.freeze_mode.name)
    batches = dataset.batches(len(data.train), config.batch_size, drop_last=config.train.drop_last)
    return data, model, phases, batches


def _require_selectable(config: Config, data: Data) -> None:
    """Raise `UserError` if the metric of `select` is not defined for the data."""
    by = METRICS[config.select]
    if by == BALANCED_ACCURACY and data.multi_label:
        expected = "val/map, val/macro_f1 or another metric: images may have several classes"
        raise user_error("select", config.select, expected)
    for what, split in (("validation", data.val), ("test", data.test)) if by in (*RANKED, MACRO_F1) else ():
        counts = class_counts(split.labels, len(data.classes))
        if not ((counts > 0) & ((counts < len(split)) | (by == MACRO_F1))).any():
            expected = f"val/loss or another metric: every class has all {what} images or none"
            raise user_error("select", config.select, expected)


def _require_solvable(config: Config, model: Model, data: Data) -> None:
    """Raise `UserError` if the network is not a linear layer on features, or the solver is not defined for the data."""
    module, structure, name = model.module, model.structure, config.model.name
    below = structure.stages[:-1]
    if model.linear_head is None:
        expected = f"a model whose head is a linear layer with a bias, which {name} is not"
    elif cut.cuttable(module, structure, below) != below or not linear_of(cut.halves(module, structure, below)[1]):
        expected = f"a model that can be cut directly below its head, which {name} cannot be"
    elif config.freeze_mode.solver == "centroid" and data.multi_label:
        expected = "probe, knn or another mode: an image with several classes has no nearest class mean"
    else:
        return
    raise user_error("freeze_mode", config.freeze_mode.name, expected)


def input_of(config: Config, source: str | None) -> InputSpec:
    """Return the input that the network of `config` with the weights `source` expects."""
    model = config.model
    return lookup.input_of(model.name, library=model.library, weights=source, image_size=model.image_size)


def build_model(config: Config, source: str | None, classes: Sequence[str], *, meta: bool) -> Model:
    """Return the network of `config.model` with the weights `source` and a head for `classes`."""
    return build.build(
        config.model.name,
        library=config.model.library,
        weights=source,
        num_classes=len(classes),
        classes=classes,
        seed=config.seed,
        image_size=config.model.image_size,
        sha256=config.model.sha256,
        memory_format=machine.memory_format(channels_last=config.channels_last),
        meta=meta,
    )


def recipe(config: Config, data: Data) -> Recipe:
    """Return the hyperparameters of training steps."""
    options = config.train
    return Recipe(
        epochs=config.epochs,
        batch_size=config.batch_size,
        eval_batch_size=config.eval_batch_size,
        seed=config.seed,
        label_smoothing=options.label_smoothing,
        clip_norm=options.clip_norm,
        mixup=options.mixup,
        cutmix=options.cutmix,
        drop_last=options.drop_last,
        sampling=options.sampling,
        criterion=Criterion(options.loss, options.focal_gamma, class_weights(config, data)),
    )


def class_weights(config: Config, data: Data) -> tuple[float, ...] | None:
    """Return the weight of each class in the loss; None for equal weights.

    `balanced` weights are inversely proportional to a class's training images, with mean 1 over these images;
    multi-label, the number of other images per image of the class. A class with no images, or no other images, has
    weight 1. UserError for the name of an unknown class.
    """
    chosen = config.train.class_weights
    if chosen is None:
        return None
    if chosen == "balanced":
        images = len(data.train)
        counts = class_counts(data.train.labels, len(data.classes)).double()
        shares = (images - counts if data.multi_label else images / counts.count_nonzero()) / counts
        return tuple(shares.where((counts > 0) & (shares > 0), 1.0).tolist())
    for name in chosen:
        if name not in data.classes:
            raise user_error("train.class_weights", name, f"classes of the data, {some(data.classes)}", data.classes)
    return tuple(float(chosen.get(name, 1.0)) for name in data.classes)
