"""Heads that learn from the same features, trained in lockstep: one batched product for all of them.

The step of a head is so small that launching its operations is what takes the time. Runs that differ in learning rate,
weight decay, schedule, smoothing or seed launch the same ones, so here the first of them makes the steps of all, and
the others take theirs over, epoch by epoch. Every head gets the bits that it gets alone: this is tried on the first
batches, and where it does not hold nothing is done together.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import repeat
from typing import Any

import torch
from torch import Tensor, nn

from frostline.core.labels import multi_label
from frostline.core.randomness import address
from frostline.training import criterion, gradient, optim
from frostline.training.dataset import Dataset, shuffled
from frostline.training.gradient import Head
from frostline.training.schedule import Rates
from frostline.training.steps import TOGETHER, Recipe, Step, Sums, batched, seed_dropout


@dataclass(frozen=True)
class EpochMade:
    """What the steps of one epoch made of one head."""

    sums: Sums
    together: int
    """How many heads the steps were made of."""
    seconds: float
    """The head's share of the time that they took."""
    parameters: tuple[Tensor, ...]
    state: tuple[Mapping[str, Any], ...]
    """The optimizer's, of each parameter."""

    def put(self, linear: nn.Linear, optimizer: torch.optim.Optimizer) -> None:
        """Make the layer and its `optimizer` what they were at the end of the epoch."""
        with torch.no_grad():
            for parameter, value, state in zip(linear.parameters(), self.parameters, self.state, strict=True):
                parameter.copy_(value)
                optimizer.state[parameter] = dict(state)


@dataclass
class Member:
    """One of the heads, and how it learns."""

    head: Head
    optimizer: torch.optim.Optimizer
    rates: Rates
    recipe: Recipe
    made: dict[int, EpochMade] = field(default_factory=dict)
    """By epoch, as far as they are not taken over."""


class Stack:
    """Owner of the parameters of all members, which become views of two tensors."""

    def __init__(self, members: Sequence[Member]) -> None:
        """Have `members`, whose optimizers are of one class, learn together; the first is who asks."""
        self.members = [*members]
        self._seeds = list(dict.fromkeys(member.recipe.seed for member in members))
        """Members of one seed see the same samples in the same order, behind the same dropout."""
        numbers = [self._seeds.index(member.recipe.seed) for member in members]
        self._seed_of = torch.tensor(numbers, device=members[0].head.linear.weight.device)
        self._weight = _stacked([member.head.linear.weight for member in members])
        biases = [member.head.linear.bias for member in members if member.head.linear.bias is not None]
        self._bias = _stacked(biases) if biases else None
        self._optimizer = optim.joined([member.optimizer for member in members], [member.rates for member in members])
        self.reached: int | None = None
        """The epoch at whose end all members are; None before the first, and within one."""
        self.ahead = 0.0
        """Seconds that the next epoch took before its steps, to try whether bits agree and to get features for that."""

    @torch.no_grad()
    def steps(self, data: Dataset, indices: Sequence[Tensor], epoch: int, first: int) -> Iterator[Step]:
        """Yield the first member's step on each of the batches at `indices`, the whole epoch's; the others' are kept.

        `first` is the number of the first one in the run.
        """
        self.reached = None
        others = [(member, Sums(0.0, 0.0, member.recipe.label_smoothing)) for member in self.members[1:]]
        seconds, began = self.ahead, time.perf_counter()
        self.ahead = 0.0
        for step, (inputs, labels) in enumerate(self._batches(data, indices, epoch), first):
            for member in self.members:
                member.rates.set(member.optimizer, step)
            labels = self._of_each(labels)
            with gradient.threads_for(self.members[0].head, inputs.shape[1]):
                logits = self._gradients(self._of_each(self._before(inputs, step)), labels)
                self._optimizer.step()
            mine, *theirs = map(Step, logits.unbind(), labels.unbind(), repeat(None))
            for (_, sums), made in zip(others, theirs, strict=True):
                sums.add(made)
            seconds += time.perf_counter() - began
            if step - first == len(indices) - 1:
                for member, sums in others:
                    member.made[epoch] = _epoch_made(member, sums, len(self.members), seconds)
                self.reached = epoch
            yield mine
            began = time.perf_counter()

    def agrees(self, data: Dataset, indices: Sequence[Tensor], epoch: int, first: int) -> bool:
        """Return whether a step on the first and on the last of the batches gives every member the bits it gets alone.

        Nothing is changed. Kernels are chosen by shapes, which other batches share.
        """
        began = time.perf_counter()
        for number in sorted({0, len(indices) - 1}):
            inputs, labels = next(self._batches(data, indices, epoch, number))
            inputs = self._of_each(self._before(inputs, first + number))
            labels = self._of_each(labels)
            with gradient.threads_for(self.members[0].head, inputs.shape[1]):
                logits = self._gradients(inputs, labels)
                for member, x, y, mine in zip(self.members, inputs, labels, logits, strict=True):
                    linear = member.head.linear
                    together = [mine, *(p.grad for p in linear.parameters())]
                    alone = gradient.of_head(Head((), linear), x, y, member.recipe.label_smoothing)
                    apart = [alone, *(p.grad for p in linear.parameters())]
                    linear.zero_grad()
                    if not all(torch.equal(a, b) for a, b in zip(together, apart, strict=True)):  # type: ignore[arg-type]
                        return False
        self.ahead += time.perf_counter() - began
        return True

    def _batches(
        self, data: Dataset, indices: Sequence[Tensor], epoch: int, start: int = 0
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield inputs `(seeds, B, ...)` and labels `(seeds, B, ...)` of each batch from the one numbered `start`."""
        sizes = [len(batch) for batch in indices]
        orders = [torch.cat(list(indices)).split(sizes)]
        for seed in self._seeds[1:]:
            orders.append(shuffled(len(data.labels), seed, epoch)[: sum(sizes)].split(sizes))
        batches = [torch.cat(several) for several in zip(*orders, strict=True)][start:]
        together = max(TOGETHER // len(batches[0]), 1)
        for inputs, labels in batched(data, batches, together, epoch):
            count = len(self._seeds)
            yield inputs.unflatten(0, (count, -1)), labels.unflatten(0, (count, -1))

    def _before(self, inputs: Tensor, step: int) -> Tensor:
        """Return what inputs `(seeds, B, ...)` are behind the layers below the heads, `(seeds, B, D)`."""
        layers = self.members[0].head.before
        if not layers:
            return inputs
        found = []
        for seed, x in zip(self._seeds, inputs, strict=True):
            seed_dropout(x.device, address(seed, "step", step))
            for layer in layers:
                x = layer(x)
            found.append(x)
        return torch.stack(found)

    def _of_each(self, by_seed: Tensor) -> Tensor:
        """Return `(members, ...)` of what is there for every seed."""
        if len(self._seeds) == 1:
            return by_seed.expand(len(self.members), *by_seed.shape[1:])
        return by_seed if len(self._seeds) == len(self.members) else by_seed[self._seed_of]

    def _gradients(self, inputs: Tensor, labels: Tensor) -> Tensor:
        """Return the logits `(members, B, classes)` for inputs `(members, B, D)`, and set the heads' gradients.

        As `gradient.of_head` does for one.
        """
        weight = self._weight.transpose(1, 2)
        logits = inputs @ weight if self._bias is None else torch.baddbmm(self._bias[:, None], inputs, weight)
        wanted = self._wanted(labels, logits.shape[2])
        error = gradient.of_logits(logits, wanted, several=multi_label(labels))
        for member, grad in zip(self.members, (error.transpose(1, 2) @ inputs).unbind(), strict=True):
            member.head.linear.weight.grad = grad
        if self._bias is not None:
            for member, grad in zip(self.members, error.sum(1).unbind(), strict=True):
                member.head.linear.bias.grad = grad
        return logits

    def _wanted(self, labels: Tensor, classes: int) -> Tensor:
        smoothings = [member.recipe.label_smoothing for member in self.members]
        if len(set(smoothings)) == 1:
            return criterion.wanted(labels, smoothings[0], classes)
        return torch.stack([criterion.wanted(*each, classes) for each in zip(labels, smoothings, strict=True)])


def bytes_kept(member: Member, epochs: int) -> int:
    """Return what the epochs of a member that others make take until it takes them over, with Adam's two moments."""
    return 3 * epochs * sum(parameter.nbytes for parameter in member.head.linear.parameters())


def _stacked(parameters: Sequence[Tensor]) -> Tensor:
    """Return the parameters in one tensor, and make them views of it."""
    together = torch.stack([parameter.detach() for parameter in parameters])
    for parameter, view in zip(parameters, together.unbind(), strict=True):
        parameter.data = view
    return together


def _epoch_made(member: Member, sums: Sums, together: int, seconds: float) -> EpochMade:
    parameters = [*member.head.linear.parameters()]
    states = [member.optimizer.state[parameter] for parameter in parameters]
    copies = tuple({k: v.clone() if isinstance(v, Tensor) else v for k, v in state.items()} for state in states)
    values = tuple(parameter.detach().clone() for parameter in parameters)
    return EpochMade(sums, together, seconds / together, values, copies)
