"""What a step of many heads costs on a card: no wait, and launches that hardly grow with their number."""

from __future__ import annotations

import torch
from torch import nn

from emulated_card import EmulatedMachine
from frostline.training import optim
from frostline.training.gradient import Head
from frostline.training.lockstep import Member, Stack
from frostline.training.steps import Recipe
from small import Samples

DIM, CLASSES, BATCH = 16, 5, 8


def step(heads: int, seeds: int = 1) -> EmulatedMachine:
    """Return a card on which the second step of so many heads was made."""
    with EmulatedMachine().running() as there:
        torch.manual_seed(0)
        data = Samples(torch.randn(4 * BATCH, DIM).to("cuda"), torch.arange(4 * BATCH).remainder(CLASSES).to("cuda"))
        members = []
        for number in range(heads):
            linear = nn.Linear(DIM, CLASSES).to("cuda")
            groups = [{"name": "head", "params": [*linear.parameters()], "weight_decay": 0.0, "scales": (1.0,)}]
            optimizer = optim.build("adamw", groups, lr=1e-3 * (number + 1), options={})
            recipe = Recipe(epochs=1, batch_size=BATCH, eval_batch_size=BATCH, seed=number % seeds)
            members.append(Member(Head((), linear), optimizer, lambda step: None, recipe))
        steps = Stack(members).steps(data, torch.arange(4 * BATCH).split(BATCH), 1, 0)
        next(steps)
        there.launches.clear()
        there.waits.clear()
        next(steps)
    return there


def test_a_step_of_many_heads_launches_what_one_does_and_an_optimizer_for_each() -> None:
    def launches(heads: int) -> tuple[int, int]:
        all_of_them = step(heads).launches
        optimizers = sum(all_of_them[name] for name in ("_fused_adamw_", "_foreach_add_"))  # which counts its steps
        return all_of_them.total() - optimizers, optimizers

    products, _ = launches(1)
    assert products <= 9
    assert launches(2) == (products, 2 * 2) and launches(16) == (products, 2 * 16)


def test_no_step_waits() -> None:
    assert not +step(4).waits and not +step(4, seeds=2).waits
