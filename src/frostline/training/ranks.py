"""The processes that make the steps of one run together, seen from the first of them, which decides and records.

The others hold the same network, one on each device, and do what they are told through a pipe: to take over a state, to
make some steps, to compute some features, to score some pictures. So what decides how a run goes is there once, and
none of them ever waits for anything but the next order or the work that all do at that moment. They end when the first
one does.
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
from frostline.training.dataset import Dataset, Outputs
from frostline.training.features import Features, Part
from frostline.training.process_group import lost_connection
from frostline.training.rank_orders import Compute, Evaluate, Join, MakeSteps, Order, PutTogether, TakeBest, TakeOver
from frostline.training.state import Learner, Progress
from frostline.training.steps import Alone, Recipe, Step, TrainedPart

_PARTING = 5.0  # seconds within which a process that is gone is noticed


class RankDied(RuntimeError):
    """One of the processes of a run is gone, and why."""


@dataclass(frozen=True)
class Origin:
    """What all processes of a run have to begin with alike."""

    data: str
    """The fingerprint of the data."""
    weights: str
    """The sha256 of the network's tensors, before anything is learned."""


class Ranks:
    """Owner of the other processes of a run."""

    def __init__(self, follow: Callable[[Connection, int], None], count: int, *, load: str) -> None:
        """Start `count - 1` processes that call `follow` with the pipe to this one and their rank, from 1.

        Each is forked from a process that has loaded the module `load` and nothing else, as CUDA survives no fork.
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
        self._shared = False
        """Whether parameters lie in shares: then this process learns nothing by itself."""

    def lead(self, learner: Learner) -> None:
        """Have the others learn what `learner` does, from where it is."""
        self._learner, self._shared = learner, sharding.any_shared(learner.module)
        self._stale = not self._shared

    def put_together(self, optimizer: bool) -> None:
        """Have the others help to read what lies in shares, if anything does, from now on."""
        if self._shared:
            self._send(PutTogether(optimizer))

    def join(self, device: torch.device, origin: Origin) -> None:
        """Have all be a group; raises what keeps one of them from it.

        RankDied where one has come to another `origin`.
        """
        for rank in range(1, len(self)):
            theirs = self._heard(rank)
            if isinstance(theirs, BaseException):
                raise theirs
            if theirs != origin:
                raise RankDied(f"process {rank + 1} of {len(self)} has other data or weights than the first")
        meeting = str(Path(self._folder.name) / "meeting")
        self._send(Join(meeting, len(self)))
        with self.heard():
            process_group.meet(meeting, rank=0, ranks=len(self), device=device)
        if device.type == "cuda":
            background.start(self._watch, name="ranks", died=lambda error: None)

    def __len__(self) -> int:
        """Return how many processes there are, this one included."""
        return len(self._pipes) + 1

    def order(self, order: Order) -> None:
        """Tell the others what to do next; they are brought to where this one is first, if it went on without them."""
        if self._stale:
            assert self._learner is not None
            self._stale = False
            self._hand_over(*state.capture(self._learner, Progress()))
        self._send(order)

    def went_on(self) -> None:
        """Note that this process has learned something by itself."""
        self._stale = True

    def computing(self, phase: int, views: Views) -> Outputs:
        """Return who computes the features of a split below the line of a phase: all, each some batches."""
        return self._sharing(lambda epoch: Compute(phase, views.identity["split"], epoch), views)

    def scoring(self, phase: int, keep: bool, views: Views) -> Outputs:
        """Return who scores a split above the line of a phase, drawn so: all, each some batches."""
        return self._sharing(lambda epoch: Evaluate(phase, views.identity["split"], keep), views)

    def _sharing(self, order: Callable[[int], Order], views: Views) -> Outputs:

        def together(
            data: Dataset, compute: Callable[[Tensor], Tensor], batches: Sequence[Tensor], epoch: int
        ) -> Iterator[Tensor]:
            if isinstance(data, Features | Part):
                data.prepare(epoch)  # while the others are free for it
            told = order(epoch)
            self.order(told)
            if self._shared and isinstance(told, Evaluate):
                compute = sharding.outside_inference(compute)
            with self.heard():
                yield from data_parallel.gathered(data, compute, batches, epoch)
            if not data.known:
                views.seen += sum(map(len, batches)) - sum(map(len, batches[:: len(self)]))

        return together

    @contextmanager
    def heard(self) -> Iterator[None]:
        """Raise, where the block fails since another process did, what became of that one."""
        try:
            yield
        except RuntimeError as error:  # as gloo and NCCL raise where a connection is gone
            if (failure := self._failure()) is not None:
                raise failure from error
            raise

    def close(self) -> None:
        """Let the others go, which have nothing to lose."""
        self._closed = True
        for process in self._processes:
            process.kill()
            process.join()
        for pipe in self._pipes:
            pipe.close()
        process_group.leave()
        self._folder.cleanup()

    def restored(self, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        """Have the others take over a checkpoint that this process has taken over."""
        if self._shared:
            self._hand_over({name: one for name, one in tensors.items() if not name.startswith("best/")}, facts)

    def _hand_over(self, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        self._send(TakeOver(process_group.described(tensors), facts))
        self._broadcast(tensors)

    def take_best(self, tensors: Mapping[str, Tensor], *, merges: bool) -> None:
        """Have the others hold the tensors of the best epoch, which this process holds; nobody learns after that."""
        self._stale = False
        self._send(TakeBest(process_group.described(tensors), merges))
        self._broadcast(tensors)

    def _broadcast(self, tensors: Mapping[str, Tensor]) -> None:
        with self.heard():
            process_group.send(tensors.values())

    def _send(self, order: Order) -> None:
        for pipe in self._pipes:
            try:
                pipe.send(order)
            except OSError as error:
                raise self._failure() or RankDied("a process of the run does not listen") from error

    def _heard(self, rank: int) -> Any:
        """Return what a process says, which is there to be read or gone."""
        try:
            return self._pipes[rank - 1].recv()
        except (EOFError, OSError):
            return RankDied(self._epitaph(rank))

    def _failure(self) -> BaseException | None:
        """Return what became of the process that failed first, None where all are as they should be.

        One that fails takes the others with it, which then tell of a lost connection alone.
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
        """End what waits for a process that is gone."""
        wait([process.sentinel for process in self._processes])
        if not self._closed:
            process_group.abort()


class Shared:
    """Makes the steps of a run together with the other processes; a head on features that are kept is trained here.

    The step of such a head takes less time than to speak of it.
    """

    together = 1

    def __init__(self, ranks: Ranks, optimizer: torch.optim.Optimizer, recipe: Recipe, views: Views) -> None:
        """Have `optimizer` learn what it holds; `views` counts the training images, whoever sees them."""
        self._ranks, self._optimizer, self._recipe, self._views = ranks, optimizer, recipe, views
        self._alone = Alone(optimizer, recipe)

    def made(self, epoch: int) -> None:
        """Return nothing: no epoch was made before."""

    def steps(self, part: TrainedPart, indices: Sequence[Tensor], epoch: int, first: int) -> Iterator[Step]:
        """Yield a step on each of the batches at `indices`."""
        if isinstance(part.train, Features | Part):
            part.train.prepare(epoch)  # while the others are free for it
        if part.train.known and gradient.linear_of(part.network) is not None:
            self._ranks.went_on()
            return self._alone.steps(part, indices, epoch, first)
        return self._together(part, indices, epoch, first)

    def _together(self, part: TrainedPart, indices: Sequence[Tensor], epoch: int, first: int) -> Iterator[Step]:
        self._ranks.order(MakeSteps(epoch, first, len(indices)))
        seen = self._views.seen
        with self._ranks.heard():
            for step in data_parallel.steps(part, indices, self._optimizer, self._recipe, epoch=epoch, first=first):
                seen += len(step.labels)
                if not part.train.known:
                    self._views.seen = seen
                yield step
