"""Sharded networks (FSDP) learn the same up to rounding, with half the memory in each of two processes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from frostline.training import data_parallel, sharding, state
from frostline.training.dataset import InMemory
from frostline.training.state import Learner, Progress
from frostline.training.steps import PlainStepper, Recipe, TrainedPart
from processes import run_in_group

IMAGES, BATCH = 14, 7
OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adam": lambda parameters: torch.optim.Adam(parameters, lr=0.01, fused=True),
    "sgd": lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9, fused=True),
}
Trained = tuple[dict[str, Tensor], int]


def network() -> nn.Sequential:
    """Return a network with a layer of odd width, a parameter of one number, a frozen layer, and a head."""
    torch.manual_seed(0)
    body = nn.Sequential(nn.Linear(8, 63), nn.PReLU(), nn.Linear(63, 64))
    return nn.Sequential(body, nn.Linear(64, 64).requires_grad_(False), nn.Unflatten(1, (1, 64)), nn.Linear(64, 5))


class Flat(nn.Sequential):
    def forward(self, inputs: Tensor) -> Tensor:
        found: Tensor = super().forward(inputs)
        return found.flatten(1)


def train(name: str, make: Callable[..., Any], *, share: bool) -> Trained:
    """Return the gathered state after some steps, and the bytes of learning parameters and optimizer state here."""
    module = Flat(*network()).double()
    learning = frozenset(name for name, one in module.named_parameters() if one.requires_grad)
    if share:
        sharding.shard(module, ["0", "1"], {name for name in learning if name.startswith("0.")}, torch.device("cpu"))
    mine = [sharding.optimized(one) for one in module.parameters() if one.requires_grad]
    optimizer = OPTIMIZERS[name](mine)
    draw = torch.Generator().manual_seed(1)
    data = InMemory(torch.randn(IMAGES, 8, generator=draw).double(), torch.arange(IMAGES) % 5)
    part = TrainedPart(module, data, None)
    how = Recipe(epochs=1, batch_size=BATCH, eval_batch_size=BATCH, seed=0, clip_norm=0.1)
    indices = [*torch.arange(IMAGES).split(BATCH)]
    for epoch in range(3):
        for _ in make(optimizer, how).steps(part, indices, epoch, 2 * epoch):
            pass
    learner = Learner(module, optimizer, None, learning)
    kept = [value for one in optimizer.state.values() for value in one.values() if isinstance(value, Tensor)]
    tensors, facts = state.capture(learner, Progress())
    again = {name: tensor.clone() for name, tensor in tensors.items()}
    for own in mine:
        own.data.zero_()
    state.restore(learner, again, facts)
    restored, _ = state.capture(learner, Progress())
    assert all(torch.equal(tensor, again[name]) for name, tensor in restored.items())
    return {name: tensor.clone() for name, tensor in restored.items()}, sum(one.nbytes for one in [*mine, *kept])


def train_sharded() -> dict[str, Trained]:
    assert dist.get_world_size() == 2
    return {name: train(name, data_parallel.DataParallelStepper, share=True) for name in OPTIMIZERS}


@pytest.mark.slow
def test_sharded_network_learns_the_same_with_half_the_memory() -> None:
    every = run_in_group(2, train_sharded)
    for name in OPTIMIZERS:
        expected, size = train(name, PlainStepper, share=False)
        for found, held in (one[name] for one in every):
            assert found.keys() == expected.keys()
            for key, tensor in expected.items():
                torch.testing.assert_close(found[key], tensor, rtol=1e-6, atol=1e-7)  # losses are float32
            assert held < 0.6 * size  # the head is not sharded
