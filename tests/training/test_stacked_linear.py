"""The products of stacked linear layers, computed in any way, agree with autograd on each layer alone."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from frostline.training.stacked_linear import StackedLinear


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("seeds", [(0, 0, 0), (0, 0, 1, 1), (0, 0, 1), (0, 1, 2)], ids=str)
def test_logits_and_gradients_agree_with_autograd(seeds: tuple[int, ...], *, bias: bool) -> None:
    torch.manual_seed(0)
    inputs, layers = torch.randn(max(seeds) + 1, 8, 16), [nn.Linear(16, 5, bias=bias) for _ in seeds]
    error = torch.randn(len(seeds), 5, 8)
    wanted = [layer(inputs[seed]).t() for layer, seed in zip(layers, seeds, strict=True)]
    torch.autograd.backward(wanted, list(error))
    gradients = [parameter.grad for layer in layers for parameter in layer.parameters()]
    stacked = StackedLinear(layers, seeds)
    stacked.take_gradients()
    assert ("per seed" in stacked.choices) == (seeds != (0, 0, 1))
    for products in stacked.choices:
        stacked.products = products
        stacked.weight_grad.zero_()
        with torch.no_grad():
            torch.testing.assert_close(stacked.logits(inputs), torch.stack(wanted))
            stacked.set_gradients(error, inputs)
        torch.testing.assert_close([one.grad for layer in layers for one in layer.parameters()], gradients)
