"""Heads that learn from the same features, trained in lockstep: one batched product for all of them.

The step of a head is so small that launching its operations is what takes the time. Runs that differ in learning rate,
weight decay, schedule, smoothing or seed launch the same ones, so here the first of them makes the steps of all, and
the others take theirs over, epoch by epoch. Every head gets the bits that it gets alone: this is tried on the first
batches, and where it does not hold nothing is done together.
"""

from __future__ import annotations

import copy
import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from frostline.core.labels import multi_label
from frostline.core.randomness import address
from frostline.training import criterion, gradient
from frostline.training.captured_step import CapturedStep
from frostline.training.dataset import Dataset, shuffled
from frostline.training.gradient import Head
from frostline.training.joined_optimizer import JoinedOptimizer
from frostline.training.schedule import Rates
from frostline.training.steps import TOGETHER, Recipe, Step, batched, seed_dropout
from frostline.training.sums import Sums, SumsOfSeveral

_TRIED = 4_000
"""Logits of all heads that are to agree before a batched product counts as having the bits of single ones."""


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
    """Owner of the parameters of all members, which become views of two tensors, as do their gradients."""

    def __init__(
        self, members: Sequence[Member], data: Dataset, note: Callable[[str], None] = lambda text: None
    ) -> None:
        """Have `members`, whose optimizers are of one class, learn together from `data`; the first is who asks.

        On a GPU a step is one launch in the end; `note` is told where it cannot be.
        """
        self._data, self._several = data, multi_label(data.labels)
        self._seeds = list(dict.fromkeys(member.recipe.seed for member in members))
        """Members of one, which follow each other, see the same samples in the same order, behind the same dropout."""
        self.members = sorted(members, key=lambda member: self._seeds.index(member.recipe.seed))
        numbers = [self._seeds.index(member.recipe.seed) for member in self.members]
        self._seed_of = torch.tensor(numbers, device=members[0].head.linear.weight.device)
        self._evenly = len({*Counter(numbers).values()}) == 1
        """Whether of every seed there are as many."""
        linears = [member.head.linear for member in self.members]
        self._weight, self._weight_grad = _stacked([linear.weight for linear in linears])
        biases = [linear.bias for linear in linears if linear.bias is not None]
        self._bias: Tensor | None = None
        self._bias_grad: Tensor | None = None
        if biases:
            self._bias, self._bias_grad = _stacked(biases)
        self._products = len(members)
        """Of how many matrices the logits are products: of those of every member, or of every seed."""
        self._optimizer = JoinedOptimizer([one.optimizer for one in self.members], [one.rates for one in self.members])
        self._captured = CapturedStep(self._learn, self._optimizer.changed, note)
        self.reached: int | None = None
        """The epoch at whose end all members are; None before the first, and within one."""
        self.ahead = 0.0
        """Seconds that the next epoch took before its steps, to try whether bits agree and to get features for that."""

    @torch.no_grad()
    def steps(self, indices: Sequence[Tensor], epoch: int, first: int) -> Iterator[Step]:
        """Yield the first member's step on each of the batches at `indices`, the whole epoch's; the others' are kept.

        `first` is the number of the first one in the run.
        """
        self.reached = None
        others = self.members[1:]
        sums = SumsOfSeveral([member.recipe.label_smoothing for member in others])
        seconds, began = self.ahead, time.perf_counter()
        self.ahead = 0.0
        self._take_gradients()
        for step, (inputs, labels) in enumerate(self._batches(indices, epoch), first):
            with gradient.threads_for(self.members[0].head, inputs.shape[1]):
                self._optimizer.set_rates(step)
                learn = self._captured if self._optimizer.can_be_captured else self._learn
                logits = learn(self._before(inputs, step), self._wanted(labels))
                self._optimizer.count_write()
            if others:
                sums.add(logits[1:], self._of_each(labels)[1:])
            seconds += time.perf_counter() - began
            if step - first == len(indices) - 1:
                for member, its in zip(others, sums.each(), strict=True):
                    member.made[epoch] = _epoch_made(member, its, len(self.members), seconds)
                self.reached = epoch
            yield Step(logits[0].t().clone(), labels[0], None)
            began = time.perf_counter()

    @torch.no_grad()
    def agrees(self, indices: Sequence[Tensor], epoch: int, first: int) -> bool:
        """Return whether a step on batches of the sizes at `indices` gives every member the bits it gets alone.

        Tried first is one product for all of a seed. No weight is changed. Kernels are chosen by shapes, which batches
        of one size share; of a small size several are tried, since few numbers may agree by chance.
        """
        began = time.perf_counter()
        samples, batches = torch.cat(list(indices)), []
        for size in sorted({len(indices[0]), len(indices[-1])}):
            count = min(math.ceil(_TRIED / (size * self._weight.shape[:2].numel())), len(samples) // size)
            batches += [*self._batches(samples[: count * size].split(size), epoch)]
        for products in ([len(self._seeds)] if self._evenly else []) + [len(self.members)]:
            self._products = products
            agreed = all(self._agrees_on(*batch, first) for batch in batches)
            if agreed:
                break
        self.ahead += time.perf_counter() - began
        return agreed

    def _agrees_on(self, inputs: Tensor, labels: Tensor, step: int) -> bool:
        inputs = self._before(inputs, step)
        with gradient.threads_for(self.members[0].head, inputs.shape[1]):
            logits = self._gradients(inputs, self._wanted(labels))
            every = zip(self.members, self._of_each(inputs), self._of_each(labels), strict=True)
            for number, (member, x, y) in enumerate(every):
                linear = copy.deepcopy(member.head.linear)  # in memory of its own: kernels are chosen by alignment, too
                alone = gradient.of_head(Head((), linear), x.clone(), y, member.recipe.label_smoothing)
                found = [one[number] for one in (logits, self._weight_grad, self._bias_grad) if one is not None]
                apart = [alone.t(), *(parameter.grad for parameter in linear.parameters())]
                if not all(torch.allclose(a, b, 0, 0, equal_nan=True) for a, b in zip(found, apart, strict=True)):  # type: ignore[arg-type]
                    return False
        return True

    def _take_gradients(self) -> None:
        """Let the members' gradients be views of the stack's."""
        for number, member in enumerate(self.members):
            member.head.linear.weight.grad = self._weight_grad[number]
            if self._bias_grad is not None:
                member.head.linear.bias.grad = self._bias_grad[number]

    def _batches(self, indices: Sequence[Tensor], epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield inputs `(seeds, B, ...)` and labels `(seeds, B, ...)` of each batch."""
        sizes = [len(batch) for batch in indices]
        orders = [torch.cat(list(indices)).split(sizes)]
        for seed in self._seeds[1:]:
            orders.append(shuffled(len(self._data.labels), seed, epoch)[: sum(sizes)].split(sizes))
        batches = [torch.cat(several) for several in zip(*orders, strict=True)]
        together = max(TOGETHER // len(batches[0]), 1)
        for inputs, labels in batched(self._data, batches, together, epoch):
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

    def _learn(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Take a step of all heads on inputs `(seeds, B, D)`, and return their logits `(members, classes, B)`."""
        logits = self._gradients(inputs, targets)
        self._optimizer.step()
        return logits

    def _gradients(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Return the logits `(members, classes, B)` for inputs `(seeds, B, D)`, and compute the heads' gradients.

        As `gradient.of_head` does for one, to what is wanted of the logits.
        """
        layers: tuple[int, ...] = (self._products, -1)
        if self._products == 1:
            layers, inputs = (-1,), inputs[0]  # a product of matrices, as that of a head alone is
        elif self._products > len(self._seeds):
            inputs = self._of_each(inputs)
        weight, weight_grad = (one.view(*layers, one.shape[2]) for one in (self._weight, self._weight_grad))
        bias = None if self._bias is None else self._bias.view(layers)
        logits = gradient.products(weight, bias, inputs).view(*self._weight.shape[:2], -1)
        error = gradient.of_logits(logits, targets, several=self._several)
        multiply = torch.mm if weight.dim() == 2 else torch.bmm
        multiply(error.view(*weight.shape[:-1], -1), inputs, out=weight_grad)
        if self._bias_grad is not None:
            torch.sum(error, 2, out=self._bias_grad)
        return logits

    def _wanted(self, labels: Tensor) -> Tensor:
        """Return what is wanted of labels `(seeds, B, ...)`: `(members, classes, B)`, or one for all where it is."""
        classes = self._weight.shape[1]
        smoothings = [member.recipe.label_smoothing for member in self.members]
        if len(set(smoothings)) == 1:
            wanted = criterion.wanted(labels, smoothings[0], classes).transpose(1, 2)
            return wanted if len(self._seeds) == 1 else self._of_each(wanted)
        every = zip(self._of_each(labels), smoothings, strict=True)
        return torch.stack([criterion.wanted(*each, classes) for each in every]).transpose(1, 2)


def bytes_kept(member: Member, epochs: int) -> int:
    """Return what the epochs of a member that others make take until it takes them over, with Adam's two moments."""
    return 3 * epochs * sum(parameter.nbytes for parameter in member.head.linear.parameters())


def _stacked(parameters: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Return the parameters in one tensor, of which they become views, and one for their gradients."""
    together = torch.stack([parameter.detach() for parameter in parameters])
    for parameter, view in zip(parameters, together.unbind(), strict=True):
        parameter.data = view
    return together, torch.zeros_like(together)


def _epoch_made(member: Member, sums: Sums, together: int, seconds: float) -> EpochMade:
    parameters = [*member.head.linear.parameters()]
    states = [member.optimizer.state[parameter] for parameter in parameters]
    copies = tuple({k: v.clone() if isinstance(v, Tensor) else v for k, v in state.items()} for state in states)
    values = tuple(parameter.detach().clone() for parameter in parameters)
    return EpochMade(sums, together, seconds / together, values, copies)
