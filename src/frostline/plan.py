"""What a run is about to do, as facts that can be drawn as a table and written as JSON."""

from __future__ import annotations

from dataclasses import dataclass


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
    freeze_mode: str
    optimizer: str
    schedule: str
    augment: str
    data: str
    images: dict[str, int]
    """Number of images per split."""
    classes: tuple[str, ...]
    image_size: int
    batch_size: int
    device: str
    precision: str
    deterministic: bool
    parameters: int
    trainable_parameters: int
    """Parameters that learn in at least one phase."""
    phases: tuple[PhasePlan, ...]
