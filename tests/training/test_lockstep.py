"""What a step of many heads costs on a card: no wait, and launches that hardly grow with their number."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from emulated_card import EmulatedMachine
from frostline.training import optim
from frostline.training.gradient import Head
from frostline.training.lockstep import Member, Stack
from frostline.training.schedule import Rates
from frostline.training.steps import Recipe
from small import Samples, compose

DIM, CLASSES, BATCH = 16, 5, 8


def step(heads: int, seeds: int = 1, rates: int | None = None, optimizer: str = "adamw") -> EmulatedMachine:
    """Return a card on which the second step of so many heads was made, each of its own learning rate or of `rates`."""
    with EmulatedMachine().running() as there:
        torch.manual_seed(0)
        data = Samples(torch.randn(4 * BATCH, DIM).to("cuda"), torch.arange(4 * BATCH).remainder(CLASSES).to("cuda"))
        members = []
        for number in range(heads):
            linear = nn.Linear(DIM, CLASSES).to("cuda")
            groups = [{"name": "head", "params": [*linear.parameters()], "weight_decay": 0.0, "scales": (1.0,)}]
            lr = 1e-3 * (number % (rates or heads) + 1)
            built = optim.build(optimizer, groups, lr=lr, options={})
            recipe = Recipe(epochs=1, batch_size=BATCH, eval_batch_size=BATCH, seed=number % seeds)
            members.append(Member(Head((), linear), built, Rates(compose().schedule, lr, 4), recipe))
        steps = Stack(members).steps(data, torch.arange(4 * BATCH).split(BATCH), 1, 0)
        next(steps)
        there.launches.clear()
        there.waits.clear()
        next(steps)
    return there


def launches(*, of: str, **options: int) -> tuple[int, int]:
    """Return how many operations such a step launches, and how many its optimizers, which are those called `of`."""
    all_of_them = step(**options).launches
    optimizers = sum(all_of_them[name] for name in (of, "_foreach_add_"))  # which counts its steps
    return all_of_them.total() - optimizers, optimizers


def test_a_step_of_many_heads_launches_what_one_does_and_an_optimizer_for_each_learning_rate() -> None:
    products, _ = launches(of="_fused_adamw_", heads=1)
    assert products <= 9
    assert launches(of="_fused_adamw_", heads=2) == (products, 1 + 2)
    assert launches(of="_fused_adamw_", heads=16) == (products, 1 + 16)
    assert launches(of="_fused_adamw_", heads=16, rates=4) == (products, 1 + 4)


@pytest.mark.parametrize("optimizer", ["adamw", "sgd", "rmsprop"])
def test_a_step_of_heads_that_differ_in_their_seed_launches_what_one_does(optimizer: str) -> None:
    one, two, many = (step(heads, heads, 1, optimizer).launches for heads in (1, 2, 16))
    assert one == two == many


def test_no_step_waits() -> None:
    assert not +step(4).waits and not +step(4, seeds=2).waits
