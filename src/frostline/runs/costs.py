"""Estimate the cost of a run on this machine: time a few of its steps, and extrapolate."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass

import torch

from frostline.core import machine, memory
from frostline.runs import frost_line
from frostline.runs.frost_line import Line
from frostline.runs.setup import Setup
from frostline.runs.train import learner_of
from frostline.training.dataset import Dataset, InMemory, batches, shuffled
from frostline.training.evaluation import evaluate
from frostline.training.steps import PlainStepper, TrainedPart

_STEPS = 30  # timed steps at most, after one untimed step
_ENOUGH = 3.0  # seconds after which no further step is timed


@dataclass(frozen=True)
class Cost:
    """Estimated cost of one run of a freeze mode on this machine; times in seconds."""

    mode: str
    device: str
    epochs: int
    once: float
    """Time to compute cached features below the frost line, once."""
    epoch: float
    """Mean time of an epoch, training and validation."""
    memory: int
    """Peak memory in bytes, of the GPU or else of the process."""

    @property
    def run(self) -> float:
        """Seconds of the whole run, without the final test and writing files."""
        return self.once + self.epochs * self.epoch


@dataclass(frozen=True)
class _Phase:
    """Seconds that a phase takes, and the memory of its features."""

    step: float
    above: float
    """Per image, above the frost line, in evaluation."""
    below: float = 0.0
    """Per image, below the line; 0 if no stage is below."""
    kept: int = 0
    """Bytes of an image's features if they are cached, else 0."""


def measure(setup: Setup, seconds: float) -> Cost:
    """Return the estimated cost of the run of `setup`, which was just assembled.

    `seconds` is the time per image through the network without its head. Compilation is not included. Raises
    torch.OutOfMemoryError if a step does not fit into GPU memory.
    """
    optimizer = learner_of(setup).optimizer
    phases = [_phase(setup, number, optimizer, seconds) for number in range(len(setup.phases))]
    kept = max(phase.kept for phase in phases) * (len(setup.data.train) + len(setup.data.val))
    peak = memory.peak(setup.device) + (kept if kept <= setup.device_budget.total else 0)
    return _extrapolated(setup, phases, peak)


def _extrapolated(setup: Setup, phases: list[_Phase], peak: int) -> Cost:
    train, val, epochs = len(setup.data.train), len(setup.data.val), setup.config.epochs
    once = every = 0.0
    for span in setup.timeline:
        phase, share = phases[span.phase], (span.end - span.start) / setup.steps_per_epoch
        views = {setup.views.train.view_of(epoch) for epoch in range(1, max(1, round(share)) + 1)}
        if phase.kept:
            once += phase.below * (train * len(views) + val)
        passed = 0.0 if phase.kept else phase.below
        every += share * (setup.steps_per_epoch * phase.step + train * passed + val * (passed + phase.above))
    return Cost(setup.config.freeze_mode.name, machine.device_name(setup.device), epochs, once, every / epochs, peak)


def _phase(setup: Setup, number: int, optimizer: torch.optim.Optimizer, seconds: float) -> _Phase:
    """Measure a phase; in evaluation, an image takes `seconds` if it goes through the whole network."""
    line = frost_line.draw(setup, number)
    if setup.recipe.mixes or line.below is None:  # see `frost_line.parts`
        network, rows = setup.model.module, _batches(setup, 1 + _STEPS)
        step = _seconds_per_step(setup, optimizer, network, setup.views.train, rows, setup.autocast)
        return _Phase(step, seconds)
    return _on_features(setup, optimizer, frost_line.draw(setup, number, cache=False), kept=line.cached)


def _on_features(setup: Setup, optimizer: torch.optim.Optimizer, line: Line, *, kept: bool) -> _Phase:
    """Measure a phase below and above a `line` that keeps no features; `kept` tells whether training keeps them."""
    size = frost_line.batch_size_below(setup)
    rows = torch.cat(_batches(setup, 2 + 2 * size // setup.config.batch_size))
    first, rest = rows[:size], rows[size : len(rows) // size * size] if len(rows) >= 2 * size else rows
    train = setup.views.train
    features = line.dataset(train)
    features.inputs(first, 1)
    machine.synchronize(setup.device)
    below, inputs = machine.timed(setup.device, lambda: features.inputs(rest, 1))
    data = InMemory(inputs, machine.select_rows(train.labels, rest))
    network = line.above(setup.model.module)
    parts = [torch.arange(len(rest))[part] for part in batches(len(rest), setup.config.batch_size)]
    indices = [parts[number % len(parts)] for number in range(1 + _STEPS)]
    step = _seconds_per_step(setup, optimizer, network, data, indices, line.autocast)
    above, _ = machine.timed(
        setup.device, lambda: evaluate(network, data, batch_size=setup.config.eval_batch_size, autocast=line.autocast)
    )
    return _Phase(step, above / len(rest), below / len(rest), inputs[0].nbytes if kept else 0)


def _batches(setup: Setup, count: int) -> list[torch.Tensor]:
    """Return the rows of the first `count` batches of an epoch, or of all if it has fewer."""
    total, size = len(setup.data.train), setup.config.batch_size
    order = shuffled(total, setup.config.seed, 1)
    return [order[part] for part in batches(total, size, drop_last=setup.config.train.drop_last)][:count]


def _seconds_per_step(
    setup: Setup,
    optimizer: torch.optim.Optimizer,
    network: torch.nn.Module,
    data: Dataset,
    indices: list[torch.Tensor],
    autocast: torch.dtype | None,
) -> float:
    """Return the seconds per step, without the first one, which allocates memory."""
    part = TrainedPart(network, data, autocast)
    made = PlainStepper(optimizer, setup.recipe).steps(part, indices, 1, 0)
    once, _ = machine.timed(setup.device, lambda: next(made))
    spent, count = _time_steps(setup, made)
    return spent / count if count else once


def _time_steps(setup: Setup, made: Iterable[object]) -> tuple[float, int]:
    """Iterate until `_ENOUGH` seconds have passed; return the seconds and the number of items."""
    began, count, spent = time.perf_counter(), 0, 0.0
    for count, _ in enumerate(made, 1):  # noqa: B007
        machine.synchronize(setup.device)
        spent = time.perf_counter() - began
        if spent > _ENOUGH:
            break
    return spent, count
