"""The training state of a run (network, optimizer, moving average): capture and restore it bit for bit.

Only tensors that can change are captured; the others are loaded from the weights again and verified by their hash.
Randomness is addressed by epoch, step and sample, so there is no generator state.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from frostline.core.metrics import Metric
from frostline.models import freeze_guard
from frostline.training import sharding
from frostline.training.averaging import MovingAverage
from frostline.training.loop import EpochResult, TrainingPosition


class CheckpointMismatch(Exception):
    """A checkpoint is intact but belongs to another run."""


@dataclass(frozen=True)
class Learner:
    """The network, optimizer and moving average that a run trains."""

    module: nn.Module
    optimizer: torch.optim.Optimizer
    ema: MovingAverage | None
    mutable: frozenset[str]
    """The names of the network's tensors that can change."""
    before_gather: Callable[[bool], None] = lambda optimizer: None
    """Called before sharded tensors are gathered; its argument says whether the optimizer's are gathered, too."""

    @property
    def eval_module(self) -> nn.Module:
        """The network that is evaluated: the moving average if there is one."""
        return self.module if self.ema is None else self.ema.module

    def average(self) -> None:
        """Take the weights after a step into the moving average, if there is one."""
        if self.ema is not None:
            self.ema.update(self.module)

    @property
    def size(self) -> int:
        """Estimated bytes of a checkpoint: tensors that can change, their best state, and Adam's two moments."""
        return 4 * sum(tensor.nbytes for name, tensor in self.module.state_dict().items() if name in self.mutable)

    @property
    def immutable(self) -> dict[str, Tensor]:
        """The network's tensors that cannot change."""
        state = self.module.state_dict(keep_vars=True)
        return {name: tensor for name, tensor in state.items() if name not in self.mutable}


@dataclass
class Progress:
    """The progress of a run: position, best epoch, and metrics so far."""

    position: TrainingPosition = field(default_factory=TrainingPosition)
    best_epoch: int = 0
    best_value: float | None = None
    """Value of the selection metric in the best epoch; None before the first epoch."""
    best: dict[str, Tensor] = field(default_factory=dict)
    """The mutable tensors of the best epoch, on the CPU."""
    seconds: float = 0.0
    """Training time of the finished epochs; `images` is the number of training images in them."""
    images: int = 0
    epochs: list[dict[str, Any]] = field(default_factory=list)
    """The metrics of every epoch so far."""
    pruned: bool = False
    """Whether the run was stopped after these epochs as a trial that is worse than others."""

    @property
    def best_phase(self) -> int:
        """The 0-based phase of the best epoch."""
        phase: int = self.best_epoch_metrics["phase"]
        return phase - 1

    @property
    def best_epoch_metrics(self) -> Mapping[str, Any]:
        """The metrics of the best epoch."""
        return self.epochs[self.best_epoch - 1]

    def add(self, epoch: EpochResult, learner: Learner, by: Metric, scores: Mapping[str, float]) -> None:
        """Add a finished epoch with its `scores`, and keep its weights if its value of `by` is the best so far."""
        self.position = TrainingPosition(epoch.epoch + 1)
        self.seconds, self.images = self.seconds + epoch.seconds, self.images + epoch.images
        self.epochs.append({**_line(epoch), **scores})
        value = scores[by.epoch]
        if self.best_value is None or by.better(value, self.best_value):
            self.best_epoch, self.best_value = epoch.epoch, value
            learner.before_gather(False)
            self.best = copy(learner.eval_module, learner.mutable)

    def exhausted(self, patience: int | None) -> bool:
        """Return whether the best epoch is `patience` epochs old."""
        return patience is not None and len(self.epochs) - self.best_epoch >= patience


def _line(epoch: EpochResult) -> dict[str, Any]:
    return {
        "epoch": epoch.epoch,
        "phase": epoch.phase + 1,
        "train/loss": epoch.train_loss,
        "train/accuracy": epoch.train_accuracy,
        "val/loss": epoch.val.loss,
        "val/accuracy": epoch.val.accuracy,
    }


def mutable_names(module: nn.Module, enter: Callable[[int], None], phases: Sequence[object]) -> frozenset[str]:
    """Return the names of the tensors of `module` that can change in any phase; calls `enter(phase)` for each."""
    found: set[str] = set()
    for phase in range(len(phases)):
        enter(phase)
        found |= module.state_dict().keys() - freeze_guard.frozen_tensors(module).keys()
    return frozenset(found)


def copy(module: nn.Module, names: frozenset[str]) -> dict[str, Tensor]:
    """Return copies of the tensors of `module` called `names`, on the CPU."""
    every = module.state_dict().items()
    return {name: sharding.whole(tensor).cpu().clone() for name, tensor in every if name in names}


def load(module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Copy `tensors` into those of `module` by name."""
    own = module.state_dict()
    for name, tensor in tensors.items():
        sharding.local(own[name]).copy_(sharding.shard_of(own[name], tensor))


def capture(learner: Learner, progress: Progress) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors and JSON-serialisable facts that `restore` needs."""
    learner.before_gather(True)
    every = learner.module.state_dict().items()
    tensors = {f"model/{name}": sharding.whole(t) for name, t in every if name in learner.mutable}
    if learner.ema is not None:
        averages = learner.ema.state_dict().items()
        tensors |= {f"ema/{name}": t for name, t in averages if _averaged(name, learner.mutable)}
    for name, parameter in _optimized(learner).items():
        for key, value in learner.optimizer.state.get(sharding.optimized(parameter), {}).items():
            tensors[f"optimizer/{name}/{key}"] = sharding.whole_state(parameter, value)
    tensors |= {f"best/{name}": tensor for name, tensor in progress.best.items()}
    facts = {key: value for key, value in vars(progress).items() if key not in ("best", "position", "pruned")}
    return tensors, {**facts, "position": asdict(progress.position)}


def restore(learner: Learner, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> Progress:
    """Restore the result of `capture` and return the progress; `CheckpointMismatch` if it belongs to another run."""
    kinds: dict[str, dict[str, Tensor]] = {"model": {}, "ema": {}, "optimizer": {}, "best": {}}
    try:
        for name, tensor in tensors.items():
            kind, _, rest = name.partition("/")
            kinds[kind][rest] = tensor
        progress = _progress(facts, kinds["best"])
        _require(learner.module.state_dict(), kinds["model"], learner.mutable)
        if learner.ema is not None:
            own = learner.ema.state_dict()
            _require(own, kinds["ema"], {name for name in own if _averaged(name, learner.mutable)})
        if kinds["best"]:
            _require(learner.eval_module.state_dict(), kinds["best"], learner.mutable)
        _restore_optimizer(learner, kinds["optimizer"])
    except (KeyError, TypeError, ValueError, AttributeError) as problem:  # readable, but not written by `capture`
        missing = f"it lacks values that this run needs ({type(problem).__name__}: {problem})"
        raise CheckpointMismatch(missing) from problem
    load(learner.module, kinds["model"])
    if learner.ema is not None:
        load(learner.ema, kinds["ema"])
    return progress


def _progress(facts: Mapping[str, Any], best: dict[str, Tensor]) -> Progress:
    position = TrainingPosition(**facts["position"])
    if [line["epoch"] for line in facts["epochs"]] != [*range(1, position.epoch)]:
        raise CheckpointMismatch("its epochs contradict its position")
    numbers = {key: facts[key] for key in ("best_epoch", "best_value", "seconds", "images", "epochs")}
    return Progress(position, best=best, **numbers)


def _restore_optimizer(learner: Learner, tensors: Mapping[str, Tensor]) -> None:
    """Restore the optimizer's state; options of its groups come from the config, learning rates from every step."""
    own, state = learner.optimizer.state_dict(), {}
    numbers = [number for group in own["param_groups"] for number in group["params"]]
    for number, (name, parameter) in zip(numbers, _optimized(learner).items(), strict=True):
        mine = {key.rpartition("/")[2]: t for key, t in tensors.items() if key.rpartition("/")[0] == name}
        if mine:
            state[number] = {key: _laid_out(tensor, parameter) for key, tensor in mine.items()}
    learner.optimizer.load_state_dict({"state": state, "param_groups": own["param_groups"]})


def _laid_out(tensor: Tensor, parameter: nn.Parameter) -> Tensor:
    """Return an optimizer's tensor in the parameter's memory format, which fused optimizers need to match elements."""
    if tensor.shape != parameter.shape or not tensor.dim():
        return tensor
    own = torch.empty_like(sharding.optimized(parameter), dtype=tensor.dtype)
    return own.copy_(sharding.shard_of(parameter, tensor))


def _optimized(learner: Learner) -> dict[str, nn.Parameter]:
    """Return by name the network's parameters that the optimizer has, in the optimizer's order."""
    of = {sharding.optimized(parameter): (name, parameter) for name, parameter in learner.module.named_parameters()}
    return dict(of[p] for group in learner.optimizer.param_groups for p in group["params"])


def _averaged(name: str, names: frozenset[str]) -> bool:
    """Return whether the moving average's tensor `name` is one of `names`, or its count of updates."""
    return name == "n_averaged" or name.removeprefix("module.") in names


def _require(own: Mapping[str, Tensor], given: Mapping[str, Tensor], names: Set[str]) -> None:
    if set(given) != names or any(own[name].shape != given[name].shape for name in names):
        raise CheckpointMismatch("its tensors differ from those of this run")
