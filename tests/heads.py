"""Heads and data for tests of lockstep training."""

from __future__ import annotations

import torch
from torch import nn

from frostline.training import optim
from frostline.training.gradient import Head
from frostline.training.lockstep import Member
from frostline.training.schedule import Rates
from frostline.training.steps import Recipe
from small import Samples, compose

DIM, CLASSES, BATCH = 16, 5, 8


def make_heads(
    heads: int,
    seeds: int = 1,
    rates: int | None = None,
    *,
    optimizer: str = "adamw",
    dim: int = DIM,
    device: str = "cpu",
) -> tuple[list[Member], Samples]:
    """Return heads with different learning rates, or with `rates` of them in turn, and four batches of data."""
    torch.manual_seed(0)
    data = Samples(torch.randn(4 * BATCH, dim).to(device), torch.arange(4 * BATCH).remainder(CLASSES).to(device))
    members = []
    for number in range(heads):
        linear = nn.Linear(dim, CLASSES).to(device)
        groups = [{"name": "head", "params": [*linear.parameters()], "weight_decay": 0.0, "scales": (1.0,)}]
        lr = 1e-3 * (number % (rates or heads) + 1)
        built = optim.build(optimizer, groups, lr=lr, options={})
        recipe = Recipe(epochs=1, batch_size=BATCH, eval_batch_size=BATCH, seed=number % seeds)
        members.append(Member(Head((), linear), built, Rates(compose().schedule, lr, 4), recipe))
    return members, data
