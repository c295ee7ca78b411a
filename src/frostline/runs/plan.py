"""What a run is about to do, as facts that can be drawn as a table and written as JSON."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from frostline.core import credentials, machine
from frostline.core.config import Config
from frostline.core.config_keys import is_read
from frostline.data.resize import CenterCrop
from frostline.models import cut, freezing
from frostline.records.layout import ADAPTER, BEST

if TYPE_CHECKING:
    from frostline.runs.setup import Setup


@dataclass(frozen=True)
class StagePlan:
    """One stage of the network during one phase."""

    stage: str
    parameters: int
    learning: int
    """Number of parameters that learn."""
    lr: tuple[float, float] | None
    """Smallest and largest peak learning rate in the stage; None where nothing learns."""
    weight_decay: tuple[float, float] | None
    norm: str
    """`batch` (batch statistics, running ones updated), `frozen` (running statistics) or `-` (no such layer)."""


@dataclass(frozen=True)
class PhasePlan:
    """A stretch of epochs (1-based, both ends included) in which the frost line stays where it is."""

    first_epoch: int
    last_epoch: int
    stages: tuple[StagePlan, ...]


@dataclass(frozen=True)
class Plan:
    """Everything a person wants to check before a run spends time."""

    name: str
    """What differs between this run and its neighbours, e.g. `full lr=0.001 seed=0`."""
    model: str
    weights: str
    loaded: str | None
    """What was read of the weights' file, in a line; None from scratch, and where nothing was read yet."""
    freeze_mode: str
    adapter: str
    """What lies beside frozen layers and what becomes of it, in a line; empty where nothing does."""
    optimizer: str | None
    """None where the head is solved at once."""
    schedule: str | None
    augment: str
    loss: str
    """What is minimised, and by what classes are weighted or drawn; empty where that is the plain cross-entropy."""
    select: str
    data: str
    images: dict[str, int]
    """Number of images per split."""
    classes: tuple[str, ...]
    multi_label: bool
    """Whether a picture may be of several classes, or of none."""
    image_size: int
    resized: str
    """What a picture becomes before its centre is cut out, in words, in pixels."""
    interpolation: str
    cut_from: str
    """What random crops of training images are cut from; empty where there are none."""
    batch_size: int
    device: str
    precision: str
    deterministic: bool
    parameters: int
    trainable_parameters: int
    """Parameters that learn in at least one phase."""
    phases: tuple[PhasePlan, ...]
    uncut: str
    """Which frozen stages are computed in every epoch since the network cannot be cut above them; empty for none."""


def _phases(setup: Setup, groups: Sequence[Mapping[str, Any]], lr: float | None) -> tuple[PhasePlan, ...]:
    """Return the plan of every phase that is reached; without an `lr` nothing is trained in steps."""
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
    """Return the plan of a stage with these parameters, and layers that keep running statistics."""
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
    """Return what the run is about to do."""
    config, data = setup.config, setup.data
    module, solver = setup.model.module, config.freeze_mode.solver
    groups = setup.groups if solver != "knn" else []  # which leaves no head
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
    """Return the device, and how many of its kind share every batch."""
    name, devices = machine.device_name(setup.device), setup.config.devices
    return name if devices == 1 else f"{devices} x {name}"


def _loss(config: Config) -> str:
    """Return in words what is not the plain cross-entropy over images that come once each."""
    how, solver = config.train, config.freeze_mode.solver
    weights = how.class_weights if isinstance(how.class_weights, str) else "by name"
    told = [
        how.loss if how.loss != "cross_entropy" and is_read("train.loss", solver) else "",
        f"class weights {weights}" if how.class_weights is not None and is_read("train.class_weights", solver) else "",
        f"{how.sampling} sampling" if how.sampling != "shuffled" and is_read("train.sampling", solver) else "",
    ]
    return ", ".join(filter(None, told))


def _adapter(setup: Setup) -> str:
    """Return how many layers have an adapter, and what the run will leave of these."""
    kind = setup.config.freeze_mode.adapter.kind
    if kind == "none":
        return ""
    count = sum(freezing.ADAPTER in part._modules for part in setup.model.module.modules())
    if setup.model.kept:
        return f"{kind} at {count} places, which {BEST} keeps; they alone in {ADAPTER}/, with the network's names"
    layout = "the names that training gave them" if kind == "ssf" else "the names of PEFT"
    return f"{kind} at {count} layers, merged into them in the end; they alone in {ADAPTER}/, with {layout}"


def _uncut(setup: Setup) -> str:
    """Return the frozen stages, by phase where there are several, above which the network cannot be cut."""
    module, structure = setup.model.module, setup.model.structure
    told = []
    for number, phase in enumerate(setup.phases, 1):
        below = cut.stages_below(structure, phase)
        reached = cut.reach(module, structure, below)
        if reached != below:
            place = f" in phase {number}" if len(setup.phases) > 1 else ""
            told.append(f"{', '.join(below[len(reached) :])}{place}")
    return "; ".join(told)
