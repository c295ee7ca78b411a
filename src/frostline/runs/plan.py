"""The plan of a run: facts to show as a table before it starts, and to write as JSON."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from frostline.core import credentials, machine
from frostline.core.config import Config
from frostline.core.config_keys import is_read
from frostline.data.resize import CenterCrop
from frostline.models import cut, freezing
from frostline.records.layout import ADAPTER, BEST
from frostline.runs.setup import Setup


@dataclass(frozen=True)
class StagePlan:
    """One stage of the network during one phase."""

    stage: str
    parameters: int
    learning: int
    """Number of parameters that learn."""
    lr: tuple[float, float] | None
    """Smallest and largest peak learning rate in the stage; None if nothing learns."""
    weight_decay: tuple[float, float] | None
    norm: str
    """`batch` (batch statistics, running ones updated), `frozen` (running statistics) or `-` (no such layers)."""


@dataclass(frozen=True)
class PhasePlan:
    """A range of epochs (1-based, both ends included) with the same frost line."""

    first_epoch: int
    last_epoch: int
    stages: tuple[StagePlan, ...]


@dataclass(frozen=True, repr=False)
class Plan:
    """Everything that people want to check before a run spends time."""

    name: str
    """The options in which this run differs from others of its sweep, e.g. `full lr=0.001 seed=0`."""
    model: str
    weights: str
    loaded: str | None
    """What was read from the weights file, in one line; None from scratch, or if nothing was read yet."""
    freeze_mode: str
    adapter: str
    """Number of adapters and what becomes of them, in one line; empty without adapters."""
    optimizer: str | None
    """None if the head is solved."""
    schedule: str | None
    augment: str
    loss: str
    """Loss, class weights and sampling, as far as they differ from cross-entropy on shuffled images; else empty."""
    select: str
    data: str
    images: dict[str, int]
    """Number of images per split."""
    classes: tuple[str, ...]
    multi_label: bool
    """Whether an image may have several classes, or none."""
    image_size: int
    resized: str
    """Size in pixels to which an image is resized before the centre crop, in words."""
    interpolation: str
    cut_from: str
    """What random crops of training images are cut from; empty without random crops."""
    batch_size: int
    device: str
    precision: str
    deterministic: bool
    parameters: int
    trainable_parameters: int
    """Parameters that learn in at least one phase."""
    phases: tuple[PhasePlan, ...]
    uncut: str
    """Frozen stages that are computed in every epoch since the network cannot be cut above them; empty if none."""

    def __repr__(self) -> str:
        learn = f"{self.trainable_parameters:,} of {self.parameters:,} parameters learn"
        return f"<Plan {self.name}: {self.model} on {self.data}, {learn}>"


def _phases(setup: Setup, groups: Sequence[Mapping[str, Any]], lr: float | None) -> tuple[PhasePlan, ...]:
    """Return the plan of every phase that has steps; `lr` is None if the head is solved."""
    module, structure, steps = setup.model.module, setup.model.structure, setup.steps_per_epoch
    group_of = {id(parameter): group for group in groups for parameter in group["params"]}
    parameters: dict[str, list[nn.Parameter]] = {stage: [] for stage in structure.stages}
    for name, parameter in module.named_parameters():
        parameters[structure.stage_of(name)].append(parameter)
    norms = [
        (path, one) for path, one in module.named_modules() if freezing.is_norm(one) and hasattr(one, "running_mean")
    ]
    norms_of = {stage: [part for path, part in norms if structure.stage_of(path) == stage] for stage in parameters}
    plans = []
    for span in setup.timeline:
        setup.enter(span.phase)
        stages = tuple(
            _stage_plan(stage, own, norms_of[stage], group_of, span.phase, lr) for stage, own in parameters.items()
        )
        plans.append(PhasePlan(span.start // steps + 1, (span.end - 1) // steps + 1, stages))
    return tuple(plans)


def _stage_plan(
    stage: str,
    own: Sequence[nn.Parameter],
    norms: Iterable[nn.Module],
    group_of: Mapping[int, Mapping[str, Any]],
    phase: int,
    lr: float | None,
) -> StagePlan:
    """Return the plan of a stage, given its parameters and its layers with running statistics."""
    learning = [p for p in own if p.requires_grad and id(p) in group_of]
    groups = [group_of[id(p)] for p in learning] if lr is not None else []
    return StagePlan(
        stage=stage,
        parameters=sum(p.numel() for p in own),
        learning=sum(p.numel() for p in learning),
        lr=_range((lr or 0.0) * group["scales"][phase] for group in groups),
        weight_decay=_range(group["weight_decay"] for group in groups),
        norm="/".join("batch" if mode else "frozen" for mode in sorted({part.training for part in norms})) or "-",
    )


def _range(values: Iterable[float]) -> tuple[float, float] | None:
    every = list(values)
    return (min(every), max(every)) if every else None


def describe(setup: Setup, name: str) -> Plan:
    """Return the plan of the run called `name`."""
    config, data = setup.config, setup.data
    module, solver = setup.model.module, config.freeze_mode.solver
    groups = setup.param_groups if solver != "knn" else []  # kNN trains no head
    reached = {span.phase for span in setup.timeline}
    return Plan(
        name=name,
        model=config.model.name,
        weights=credentials.scrubbed(config.model.weights or "scratch"),
        loaded=setup.model.loaded,
        freeze_mode=config.freeze_mode.name,
        adapter=_adapter(setup),
        optimizer=config.optimizer.name if solver is None else None,
        schedule=config.schedule.name if solver is None else None,
        augment=config.augment.name,
        loss=_loss(config),
        select=config.select,
        data=config.data.name,
        images={name: len(split) for name, split in data.splits.items()},
        classes=data.classes,
        multi_label=data.multi_label,
        image_size=setup.model.input.size,
        resized=CenterCrop.of(setup.model.input).resized,
        interpolation=setup.model.input.interpolation,
        cut_from=data.cut_from,
        batch_size=config.batch_size,
        device=_device(setup),
        precision=str(setup.autocast or torch.float32).removeprefix("torch."),
        deterministic=config.deterministic,
        parameters=sum(p.numel() for p in module.parameters()),
        trainable_parameters=sum(
            p.numel() for group in groups if any(group["scales"][phase] for phase in reached) for p in group["params"]
        ),
        phases=_phases(setup, groups, config.lr if solver is None else None),
        uncut=_uncut(setup),
    )


def _device(setup: Setup) -> str:
    name, devices = machine.device_name(setup.device), setup.config.devices
    return name if devices == 1 else f"{devices} x {name}"


def _loss(config: Config) -> str:
    """Return in words how loss, class weights and sampling differ from cross-entropy on shuffled images."""
    how, solver = config.train, config.freeze_mode.solver
    weights = how.class_weights if isinstance(how.class_weights, str) else "by name"
    told = [
        how.loss if how.loss != "cross_entropy" and is_read("train.loss", solver) else "",
        f"class weights {weights}" if how.class_weights is not None and is_read("train.class_weights", solver) else "",
        f"{how.sampling} sampling" if how.sampling != "shuffled" and is_read("train.sampling", solver) else "",
    ]
    return ", ".join(filter(None, told))


def _adapter(setup: Setup) -> str:
    """Return in words the number of adapters, and where the run will write them."""
    kind = setup.config.freeze_mode.adapter.kind
    if kind == "none":
        return ""
    count = sum(freezing.ADAPTER in part._modules for part in setup.model.module.modules())
    if setup.model.kept_adapter:
        return f"{kind} at {count} places, kept in {BEST}; also alone in {ADAPTER}/, with the network's names"
    layout = "frostline's names" if kind == "ssf" else "PEFT's names"
    return f"{kind} at {count} layers, merged into them at the end; also alone in {ADAPTER}/, with {layout}"


def _uncut(setup: Setup) -> str:
    """Return in words the frozen stages above which the network cannot be cut, by phase if there are several."""
    module, structure = setup.model.module, setup.model.structure
    told = []
    for number, phase in enumerate(setup.phases, 1):
        below = cut.stages_below(structure, phase)
        reached = cut.cuttable(module, structure, below)
        if reached != below:
            place = f" in phase {number}" if len(setup.phases) > 1 else ""
            told.append(f"{', '.join(below[len(reached) :])}{place}")
    return "; ".join(told)
