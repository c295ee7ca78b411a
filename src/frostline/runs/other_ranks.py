"""The other processes of a multi-device run: they follow the orders of the first one, and record nothing."""

from __future__ import annotations

import functools
import os
import queue
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NoReturn

import torch

from frostline.core import background
from frostline.core.config import Config
from frostline.data.views import Views
from frostline.models import adapters
from frostline.models.freeze_guard import Guard
from frostline.report.terminal import Screen
from frostline.runs import frost_line, robustness
from frostline.runs.setup import Setup, assemble, param_groups_of
from frostline.runs.train import learner_of
from frostline.store import entries, hashing
from frostline.training import data_parallel, process_group, sharding, state
from frostline.training.data_parallel import DataParallelStepper
from frostline.training.dataset import batches, ordered, sampled
from frostline.training.evaluation import evaluating, logits_function
from frostline.training.features import padded_batches
from frostline.training.process_group import TensorSpecs
from frostline.training.ranks import Origin, Ranks
from frostline.training.schedule import span_of
from frostline.training.state import Learner, Progress
from frostline.training.steps import PhaseParts


@contextmanager
def start_others(setup: Setup, folder: Path) -> Iterator[tuple[Setup, Learner]]:
    """Start the other processes of a run for the block; yield the setup with them, and the learner."""
    config = setup.config
    if config.devices == 1:
        yield setup, learner_of(setup)
        return
    model = replace(config.model, weights=setup.weights)
    config = replace(config, model=model, threads=torch.get_num_threads())
    found = Ranks(functools.partial(follow, config, folder, entries.distrusted()), config.devices, load=__name__)
    try:
        found.join(setup.device, origin(setup))
        setup = sharded(replace(setup, ranks=found))
        learner = replace(learner_of(setup), before_gather=found.gather_shards)
        found.lead(learner)
        yield setup, learner
    finally:
        found.close()


def origin(setup: Setup) -> Origin:
    """Return the starting point that all processes of a run must share."""
    return Origin(setup.data.fingerprint, hashing.of_tensors(setup.model.module.state_dict(keep_vars=True)))


def sharded(setup: Setup) -> Setup:
    """Return the setup with learning parameters sharded over all devices, if the config asks for FSDP.

    Units are the largest modules within one stage. Adapters and the head are small and are not sharded.
    """
    structure, module = setup.model.structure, setup.model.module
    if not setup.config.fsdp or setup.config.freeze_mode.adapter.kind != "none":
        return setup
    frost_line.draw(setup, 0)  # cut first: sharded modules cannot be traced
    (phase,), top = setup.phases, structure.stages[-1]
    learning = {name for name in phase.learning if structure.stage_of(name) != top}
    units: list[str] = []
    for path, part in module.named_modules():
        names = {f"{path}.{name}" for name, _ in part.named_parameters()}
        inside = any(path.startswith(f"{unit}.") for unit in units)
        if not inside and not names.isdisjoint(learning) and structure.in_one_stage(path):
            units.append(path)
    sharding.shard(module, units, learning, setup.device)
    return replace(setup, param_groups=param_groups_of(setup.config, setup.model, setup.phases))


def follow(config: Config, folder: Path, distrusted: frozenset[object], pipe: Connection, rank: int) -> NoReturn:
    """Follow orders from `pipe` until its other end closes; on an error, send the exception and exit.

    Entries of the store that the first process has `distrusted` are not read.
    """
    entries.distrust(distrusted)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # the first process gets them, too, and decides
        signal.signal(number, signal.SIG_IGN)
    orders: queue.SimpleQueue[tuple[str, tuple[Any, ...]]] = queue.SimpleQueue()

    def listen() -> None:
        try:
            while True:
                orders.put(pipe.recv())
        except (EOFError, OSError):
            os._exit(1)

    try:
        own = config if config.device == "cpu" else replace(config, device=f"cuda:{rank}")
        follower = Follower(own, folder, rank)
        pipe.send(origin(follower.setup))
        background.start(listen, name="orders", died=lambda error: os._exit(1))
        while True:
            order, arguments = orders.get()
            getattr(follower, order)(*arguments)
    except Exception as error:
        pipe.send(error)
    os._exit(1)


class Follower:
    """The network of a following process; its public methods are the orders of the first process."""

    def __init__(self, config: Config, folder: Path, rank: int) -> None:
        """Assemble the same setup as the first process before its first step."""
        self.setup = replace(assemble(config, folder, meta=False, screen=Screen.silent()), is_follower=True)
        self._rank = rank
        self._learner: Learner
        self._guard = Guard(self.setup.model.module)
        self._parts: tuple[int, PhaseParts] | None = None
        self._steps: Iterator[None] = iter(())

    def join(self, meeting: str, ranks: int) -> None:
        """Join the process group of `ranks` processes that meets through the file `meeting`."""
        process_group.join(meeting, rank=self._rank, ranks=ranks, device=self.setup.device)
        self.setup = sharded(self.setup)
        self._learner = learner_of(self.setup)
        self._sharded = sharding.any_sharded(self.setup.model.module)

    def gather_shards(self, optimizer: bool) -> None:
        """Take part in gathering sharded tensors: the network's, and with `optimizer` its state's, too."""
        if optimizer:
            state.capture(self._learner, Progress())
        else:
            state.copy(self._learner.eval_module, self._learner.mutable)

    def load_state(self, tensors: TensorSpecs, facts: Mapping[str, Any]) -> None:
        """Receive a training state: tensors of this description, and these facts."""
        self._guard.check()
        state.restore(self._learner, process_group.receive(tensors, self.setup.device), facts)
        self._guard, self._parts = Guard(self.setup.model.module), None

    def load_best(self, tensors: TensorSpecs, merges: bool) -> None:
        """Receive the tensors of the best epoch; if it `merges`, merge adapters into the network first."""
        if merges:
            adapters.merge(self.setup.model.module)
        state.load(self.setup.model.module, process_group.receive(tensors, self.setup.device))

    def begin_steps(self, epoch: int, first: int, count: int) -> None:
        """Begin `count` steps of an epoch, which the orders `step` execute; `first` is the number of the first one."""
        self._steps = self._executed(epoch, first, count)

    def step(self) -> None:
        """Execute the next step."""
        next(self._steps)

    def _executed(self, epoch: int, first: int, count: int) -> Iterator[None]:
        setup, recipe, labels = self.setup, self.setup.recipe, self.setup.data.train.labels
        slices = batches(len(labels), recipe.batch_size, drop_last=recipe.drop_last)
        every = sampled(labels, recipe.sampling, recipe.seed, epoch)
        start = first - (epoch - 1) * len(slices)
        indices = [every[batch] for batch in slices[start : start + count]]
        span = span_of(setup.timeline, first)
        part, optimizer = self._entered(span.phase).train, self._learner.optimizer
        made = DataParallelStepper(optimizer, recipe).steps(part, indices, epoch, first)
        for step in range(first, first + count):
            setup.rates.set(optimizer.param_groups, step, span)
            next(made)
            self._learner.average()
            if step == first + count - 1:
                self._guard.check_if_written()
            yield

    @torch.inference_mode()
    def evaluate(self, split: str, epoch: int, phase: int, cache: bool) -> None:
        """Compute the logits of a share of a split, above the frost line of a phase, drawn with `cache`.

        For validation, averaged weights are used if there are any.
        """
        setup = self.setup
        if split == "val":
            part = self._entered(phase).val
        else:
            line = frost_line.draw(setup, phase, cache=cache)
            part = line.evaluated(setup.model.module, self._views(split))
        with evaluating(part.network):
            every = ordered(part.data, setup.recipe.eval_batch_size)
            logits = logits_function(part.network, part.autocast)
            logits = sharding.outside_inference(logits) if self._sharded else logits
            data_parallel.send(part.data, logits, every, epoch, level=self._sharded)

    def compute(self, split: str, epoch: int, phase: int) -> None:
        """Compute a share of a split's features in an epoch, below the frost line of a phase."""
        views = self._views(split)
        backbone = frost_line.draw(self.setup, phase).below
        every = torch.arange(len(views.labels))
        assert backbone is not None
        data_parallel.send(views, backbone(), padded_batches(every, frost_line.batch_size_below(self.setup)), epoch)

    def _entered(self, phase: int) -> PhaseParts:
        if self._parts is None or self._parts[0] != phase:
            self._guard.check()
            ema = self._learner.ema
            self._parts = phase, frost_line.parts(self.setup, phase, ema and ema.module)
            self._guard.watch()
        self.setup.enter(phase)  # an order may have entered another phase to compute features
        return self._parts[1]

    def _views(self, split: str) -> Views:
        return self.setup.views.of_split(split) or robustness.corrupted(self.setup, split)
