"""Relative gradient norms."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from frostline.training.relative_gradient import relative_gradient_norms


def test_norms_are_of_the_mean_gradient_over_the_weights() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Dropout(0.9), nn.Linear(5, 3))
    network[0].requires_grad_(False)
    inputs, labels = torch.randn(8, 6), torch.arange(8) % 3
    batches = list(zip(inputs.split(4), labels.split(4), strict=True))
    found = relative_gradient_norms(network, lambda name: f"layer {name[0]}", batches, None)
    assert (
        network.training and [parameter.requires_grad for parameter in network.parameters()] == [False] * 2 + [True] * 2
    )
    assert all(parameter.grad is None for parameter in network.parameters())
    network.requires_grad_(True).eval()
    F.cross_entropy(network(inputs), labels).backward()
    for number in (0, 3):
        parameters = [*network[number].parameters()]
        pull, weight = (
            torch.cat([t.detach().flatten() for t in each]).norm()
            for each in ([p.grad for p in parameters], parameters)
        )
        assert found[f"layer {number}"] == pytest.approx(float(pull / weight), rel=1e-5)
    assert len(found) == 2
