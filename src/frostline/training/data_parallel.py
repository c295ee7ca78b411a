"""Data-parallel training steps: each process computes a share of every batch on its own device.

Losses and gradients are summed over the shares and divided by the total weight of the samples: up to rounding they are
those of the whole batch, however uneven the shares. Each process then takes the same step, so all have the same
weights. Gradients are reduced after the backward pass, not during it: the order of the sums, and so the last bits,
depend only on the number of processes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import torch
import torch.distributed as dist
from torch import Tensor

from frostline.core import machine
from frostline.core.randomness import derive_seed
from frostline.training import sharding
from frostline.training.criterion import Targets
from frostline.training.dataset import Dataset, prefetched
from frostline.training.steps import Recipe, Step, TrainedPart, batched, mix, seed_dropout
from frostline.training.sync_batch_norm import Share, WholeBatch

_AT_ONCE = 2**26  # numbers per all-reduce: 256 MB


class DataParallelStepper:
    """Executes the same steps as `PlainStepper`, on whole batches; all processes call it with the same arguments.

    A batch with fewer samples than processes is computed as a whole by each of them.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, recipe: Recipe) -> None:
        """Train the parameters of `optimizer`."""
        self._optimizer, self._recipe = optimizer, recipe

    def steps(self, part: TrainedPart, indices: Sequence[Tensor], epoch: int, first: int) -> Iterator[Step]:
        """Execute a step on each batch of `indices` lazily, and yield it."""
        recipe, rank, ranks = self._recipe, dist.get_rank(), dist.get_world_size()
        shares = [Share.of(len(index), rank, ranks) for index in indices]
        mine = [index[_rows(share, partner=recipe.mixes)] for share, index in zip(shares, indices, strict=True)]
        together = max(part.data.fetch_size * ranks // recipe.batch_size, 1)
        for number, (inputs, labels) in enumerate(batched(part.data, mine, together, epoch)):
            step, share, device = first + number, shares[number], labels.device
            seed_dropout(device, derive_seed(recipe.seed, "step", step))
            self._optimizer.zero_grad()
            weights = None if part.weights is None else machine.select_rows(part.weights, mine[number])
            inputs, targets = mix(inputs, labels, weights, recipe, step)
            if recipe.mixes and not share.whole:
                inputs, targets = _without_first(inputs, targets)
            loss, logits = _summed(part, inputs, targets, share, recipe)
            if recipe.clip_norm is not None:
                sharding.clip([*part.network.parameters()], recipe.clip_norm)
            sharding.hand_gradients(part.network)
            self._optimizer.step()
            yield Step(logits, machine.select_rows(part.data.labels, indices[number]), loss)


def _rows(share: Share, *, partner: bool) -> Tensor:
    """Return the positions of a share in its batch; with `partner`, also of the sample that its first is mixed with."""
    start = share.start - 1 if partner and not share.whole else share.start
    return torch.arange(start, share.stop) % share.size


def _without_first(inputs: Tensor, targets: Targets) -> tuple[Tensor, Targets]:
    """Return mixed inputs and targets without the first sample, which was only the second one's mixing partner."""
    weights = None if targets.weights is None else targets.weights[1:]
    return inputs[1:], replace(targets, labels=targets.labels[1:], partners=targets.partners[1:], weights=weights)


def _summed(part: TrainedPart, inputs: Tensor, targets: Targets, share: Share, recipe: Recipe) -> tuple[Tensor, Tensor]:
    """Return loss and logits `(B, classes)` of the whole batch, and set its gradient on the parameters."""
    with machine.autocast(inputs.device, part.autocast), WholeBatch(share):
        logits = part.network(inputs).float()
    total, count = recipe.criterion.sums(logits, targets)
    total.backward()
    gradients = [p.grad for p in part.network.parameters() if p.grad is not None]
    every = logits.new_zeros(share.size, logits.shape[1])
    if not share.whole or dist.get_rank() == 0:
        every[share.start : share.stop] = logits.detach()
    sums = torch.stack([total.detach(), count])
    sum_over_processes([*(one for one in gradients if not sharding.is_sharded(one)), every, sums])
    torch._foreach_div_([sharding.local(one) for one in gradients], sums[1])
    return sums[0] / sums[1], every


@torch.no_grad()
def sum_over_processes(tensors: Sequence[Tensor]) -> None:
    """Replace each tensor by its sum over all processes, whose tensors have the same shapes."""
    waiting: list[Tensor] = []
    for number, tensor in enumerate(tensors, 1):
        waiting.append(tensor)
        if number == len(tensors) or sum(map(torch.numel, waiting)) >= _AT_ONCE:
            flat = torch.cat([one.flatten() for one in waiting])
            dist.all_reduce(flat)
            for one, found in zip(waiting, flat.split([*map(torch.numel, waiting)]), strict=True):
                one.copy_(found.view_as(one))
            waiting = []


def gathered(
    data: Dataset, compute: Callable[[Tensor], Tensor], batches: Sequence[Tensor], epoch: int
) -> Iterator[Tensor]:
    """Yield the outputs of all batches in the first process: batches are computed by the processes in turn (`send`)."""
    ranks = dist.get_world_size()
    for first, index in zip(range(0, len(batches), ranks), prefetched(data, batches[::ranks], epoch), strict=True):
        output = compute(data.inputs(index, epoch))
        yield output
        for rank, batch in enumerate(batches[first + 1 : first + ranks], 1):
            order = torch.channels_last if machine.is_channels_last(output) else torch.contiguous_format
            theirs = output.new_empty(len(batch), *output.shape[1:]).contiguous(memory_format=order)
            dist.recv(_in_memory_order(theirs), rank)
            yield theirs


def send(
    data: Dataset, compute: Callable[[Tensor], Tensor], batches: Sequence[Tensor], epoch: int, *, level: bool = False
) -> None:
    """Compute this process's part of `batches` and send the outputs to the first process.

    With `level`, each process computes as many batches as the first one, the last perhaps in vain: for computations in
    which the processes need each other.
    """
    mine = batches[dist.get_rank() :: dist.get_world_size()]
    for index in prefetched(data, mine, epoch):
        dist.send(_in_memory_order(compute(data.inputs(index, epoch))), 0)
    if level and len(mine) < -(-len(batches) // dist.get_world_size()):
        compute(data.inputs(batches[0], epoch))


def _in_memory_order(output: Tensor) -> Tensor:
    """Return a contiguous tensor, permuted to `(B, H, W, C)` if it is channels_last; only a tensor with gaps is copied.

    A gap lies, for example, between the class tokens that a transformer's head takes from all tokens.
    """
    return output.permute(0, 2, 3, 1) if machine.is_channels_last(output) else output.contiguous()
