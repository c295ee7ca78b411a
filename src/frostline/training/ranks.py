"""Control of the other processes of a multi-device run by the first one, which makes all decisions and records.

The others hold the same network, one per device, and follow orders from a pipe: take over a state, execute steps,
compute features, evaluate images. An order is the name of a method of `other_ranks.Follower`, with arguments. So all
decisions about a run are made in one process, and the others only ever wait for the next order or for collective work.
They end when the first process ends.
"""

from __future__ import annotations

import multiprocessing
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from frostline.core import background, interrupts
from frostline.data.views import Views
from frostline.training import data_parallel, gradient, process_group, sharding, state
from frostline.training.data_parallel import DataParallelStepper
from frostline.training.dataset import Dataset, Outputs
from frostline.training.features import Features, Subset
from frostline.training.process_group import lost_connection
from frostline.training.state import Learner, Progress
from frostline.training.steps import PlainStepper, Recipe, Step, Stepper, TrainedPart

_PARTING = 5.0  # seconds to wait for an ended process to be noticed


class RankDied(RuntimeError):
    """A process of the run has died or does not match; the message says why."""


@dataclass(frozen=True)
class Origin:
    """The starting point that all processes of a run must share."""

    data: str
    """The fingerprint of the data."""
    weights: str
    """The sha256 of the network's initial tensors."""


class Ranks:
    """Starts, instructs and ends the other processes of a run."""

    def __init__(self, follow: Callable[[Connection, int], None], count: int, *, load: str) -> None:
        """Start `count - 1` processes that call `follow` with a pipe to this process and their rank, from 1.

        Each is forked from a server process that has only imported the module `load`, since CUDA does not survive a
        fork.
        """
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([load])
        self._closed, self._folder = False, tempfile.TemporaryDirectory()
        self._pipes: list[Connection] = []
        self._processes = []
        for rank in range(1, count):
            ours, theirs = context.Pipe()
            process = context.Process(target=follow, args=(theirs, rank), name=f"rank {rank}", daemon=True)
            process.start()
            theirs.close()
            self._pipes.append(ours)
            self._processes.append(process)
        self._learner: Learner | None = None
        self._stale = True
        self._sharded = False
        """Whether parameters are sharded: then this process trains nothing alone."""

    def lead(self, learner: Learner) -> None:
        """Make the others train together with `learner`, from its current state."""
        self._learner, self._sharded = learner, sharding.any_sharded(learner.module)
        self._stale = not self._sharded

    def gather_shards(self, optimizer: bool) -> None:
        """Make the others take part in gathering sharded tensors, which this process then reads; else do nothing."""
        if self._sharded:
            self._send("gather_shards", optimizer)

    def join(self, device: torch.device, origin: Origin) -> None:
        """Form a process group with all others; re-raises the error of one that fails.

        RankDied if the `origin` of one differs.
        """
        for rank in range(1, len(self)):
            theirs = self._heard(rank)
            if isinstance(theirs, BaseException):
                raise theirs
            if theirs != origin:
                raise RankDied(f"process {rank + 1} of {len(self)} has other data or weights than the first")
        meeting = str(Path(self._folder.name) / "meeting")
        self._send("join", meeting, len(self))
        with self.propagating_errors():
            process_group.join(meeting, rank=0, ranks=len(self), device=device)
        if device.type == "cuda":
            background.start(self._watch, name="ranks", died=lambda error: None)

    def __len__(self) -> int:
        """Return how many processes there are, this one included."""
        return len(self._pipes) + 1

    def order(self, name: str, *arguments: object) -> None:
        """Send an order to the others, and before it the current state if this process has trained without them."""
        if self._stale:
            assert self._learner is not None
            self._stale = False
            self._send_tensors("load_state", *state.capture(self._learner, Progress()))
        self._send(name, *arguments)

    def mark_stale(self) -> None:
        """Note that this process has trained without the others."""
        self._stale = True

    def sharing(self, views: Views, order: str, *arguments: object) -> Outputs:
        """Return a function that computes outputs for a split together with the others, distributed over all ranks.

        They get the `order`, `compute` or `evaluate`, with the split, the epoch and these arguments.
        """

        def together(
            data: Dataset, compute: Callable[[Tensor], Tensor], batches: Sequence[Tensor], epoch: int
        ) -> Iterator[Tensor]:
            if isinstance(data, Features | Subset):
                data.prepare(epoch)  # while the others are free to help
            if self._sharded and order == "evaluate":
                compute = sharding.outside_inference(compute)
            outputs = data_parallel.gathered(data, compute, batches, epoch)
            if order == "compute":
                yield next(outputs)  # before the others begin, who could not stop if nobody has room for outputs
            self.order(order, views.identity["split"], epoch, *arguments)
            with self.propagating_errors():
                yield from outputs
            if not data.cached:
                views.seen += sum(map(len, batches)) - sum(map(len, batches[:: len(self)]))

        return together

    @contextmanager
    def propagating_errors(self) -> Iterator[None]:
        """If the block fails because another process failed, raise that process's error."""
        try:
            yield
        except RuntimeError as error:  # gloo and NCCL raise it for lost connections
            if (failure := self._failure()) is not None:
                raise failure from error
            raise

    def close(self) -> None:
        """Kill the others, which hold no state of their own, and leave the process group."""
        self._closed = True
        for process in self._processes:
            process.kill()
            process.join()
        for pipe in self._pipes:
            pipe.close()
        process_group.leave()
        self._folder.cleanup()

    def send_checkpoint(self, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        """Send a checkpoint that this process has restored to the others, if parameters are sharded."""
        if self._sharded:
            needed = {name: one for name, one in tensors.items() if not name.startswith("best/")}
            self._send_tensors("load_state", needed, facts)

    def send_best(self, tensors: Mapping[str, Tensor], *, merges: bool) -> None:
        """Send the tensors of the best epoch, which this process holds, to the others; training is over then."""
        self._stale = False
        self._send_tensors("load_best", tensors, merges)

    def _send_tensors(self, order: str, tensors: Mapping[str, Tensor], argument: object) -> None:
        self._send(order, process_group.describe(tensors), argument)
        with self.propagating_errors():
            process_group.send(tensors.values())

    def _send(self, order: str, *arguments: object) -> None:
        for pipe in self._pipes:
            try:
                pipe.send((order, arguments))
            except OSError as error:
                raise self._failure() or RankDied("a process of the run does not respond") from error

    def _heard(self, rank: int) -> Any:
        """Return the message of a process that has sent one, or `RankDied` if it has ended."""
        try:
            return self._pipes[rank - 1].recv()
        except (EOFError, OSError):
            return RankDied(self._epitaph(rank))

    def _failure(self) -> BaseException | None:
        """Return the error of the process that failed first; None if none failed.

        A failing process makes the others fail, too; those report only a lost connection.
        """
        failures: list[BaseException] = []
        waiting = dict(zip(self._pipes, range(1, len(self)), strict=True))
        while waiting and all(map(lost_connection, failures)) and (ready := wait(list(waiting), _PARTING)):
            said = [self._heard(waiting.pop(pipe)) for pipe in ready]  # type: ignore[call-overload]
            failures += [one for one in said if isinstance(one, BaseException)]
        return min(failures, key=lost_connection, default=None)

    def _epitaph(self, rank: int) -> str:
        process = self._processes[rank - 1]
        process.join(_PARTING)
        who, code = f"process {rank + 1} of {len(self)}", process.exitcode
        return f"{who} hung up" if code is None else f"{who} {interrupts.how_ended(code)}"

    def _watch(self) -> None:
        """Abort collective operations when a process ends."""
        wait([process.sentinel for process in self._processes])
        if not self._closed:
            process_group.abort()


class LeadingStepper(Stepper):
    """The stepper of a run's first process of several: steps are data-parallel, except for a head on cached features.

    Such a head is trained in this process: its step takes less time than communication.
    """

    def __init__(self, ranks: Ranks, optimizer: torch.optim.Optimizer, recipe: Recipe, views: Views) -> None:
        """Train the parameters of `optimizer`; `views` counts the training images of all processes."""
        self._ranks, self._views = ranks, views
        self._alone, self._shared = PlainStepper(optimizer, recipe), DataParallelStepper(optimizer, recipe)

    def steps(self, part: TrainedPart, indices: Sequence[Tensor], epoch: int, first: int) -> Iterator[Step]:
        """Execute a step on each batch of `indices` lazily, and yield it."""
        if isinstance(part.data, Features | Subset):
            part.data.prepare(epoch)  # while the others are free to help
        if part.data.cached and gradient.linear_of(part.network) is not None:
            self._ranks.mark_stale()
            return self._alone.steps(part, indices, epoch, first)
        return self._together(part, indices, epoch, first)

    def _together(self, part: TrainedPart, indices: Sequence[Tensor], epoch: int, first: int) -> Iterator[Step]:
        self._ranks.order("begin_steps", epoch, first, len(indices))
        steps, seen = self._shared.steps(part, indices, epoch, first), self._views.seen
        for index in indices:
            self._ranks.order("step")  # one at a time: between two steps a checkpoint may need the others
            with self._ranks.propagating_errors():
                step = next(steps)
            seen += len(index)
            if not part.data.cached:
                self._views.seen = seen
            yield step
