"""The first process of several gives its orders in time for the others, and no sooner."""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from frostline.training.data_parallel import DataParallelStepper
from frostline.training.ranks import LeadingStepper
from frostline.training.steps import PlainStepper, Recipe, TrainedPart
from small import Samples


def test_a_step_is_ordered_only_when_it_is_due(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DataParallelStepper, "steps", PlainStepper.steps)  # needs no other process
    orders: list[str] = []
    ranks: Any = SimpleNamespace(order=lambda name, *_: orders.append(name), propagating_errors=nullcontext)
    network, views = nn.Linear(3, 2), Samples(torch.randn(8, 3), torch.arange(8) % 2)
    recipe = Recipe(epochs=1, batch_size=4, eval_batch_size=4, seed=0)
    stepper = LeadingStepper(ranks, torch.optim.SGD(network.parameters()), recipe, SimpleNamespace(seen=0))  # type: ignore[arg-type]
    steps = stepper.steps(TrainedPart(network, views, None), [*torch.arange(8).split(4)], 1, 0)
    next(steps)
    orders.append("gather_shards")  # as a checkpoint does between two steps
    next(steps)
    assert orders == ["begin_steps", "step", "gather_shards", "step"]
