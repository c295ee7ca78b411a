"""The closed form of a head's gradient is what autograd finds, and is taken only where it is the whole truth."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from frostline import cut, freezing, gradient
from frostline.gradient import Targets
from small import mode, network, resolve


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("bias", [True, False])
def test_the_closed_form_is_the_gradient_that_autograd_finds(smoothing: float, bias: bool) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(40, 7, bias=bias)
    twin = copy.deepcopy(layer)
    inputs, labels = torch.randn(16, 40), torch.randint(7, (16,))
    targets = Targets(labels, labels, 1.0, smoothing)
    loss, logits = gradient.of_linear(layer, inputs, targets)
    expected, outputs = gradient.by_autograd(twin, inputs, targets, None)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    assert torch.allclose(logits, outputs)
    for ours, theirs in zip(layer.parameters(), twin.parameters(), strict=True):
        assert ours.grad is not None and theirs.grad is not None
        assert torch.allclose(ours.grad, theirs.grad, atol=1e-7, rtol=1e-5)


def test_partners_have_their_share_of_the_loss() -> None:
    layer = nn.Linear(4, 3)
    inputs, labels, partners = torch.randn(5, 4), torch.tensor([0, 1, 2, 0, 1]), torch.tensor([2, 2, 1, 1, 0])
    loss, logits = gradient.by_autograd(layer, inputs, Targets(labels, partners, 0.25, 0.0), None)
    expected = 0.25 * F.cross_entropy(logits, labels) + 0.75 * F.cross_entropy(logits, partners)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)


@pytest.mark.parametrize(("name", "alone"), [("resnet18", True), ("mobilenet_v2", False), ("squeezenet1_0", False)])
def test_a_head_with_more_to_it_than_a_linear_layer_is_left_to_autograd(name: str, alone: bool) -> None:
    model = network(name)
    (phase,) = resolve(model, mode("head"))
    freezing.freeze(model.module, model.structure, phase, norm_stats="learn")
    _, upper = cut.halves(model.module, model.structure, cut.stages_below(model.structure, phase))
    assert (gradient.lone_linear(upper) is not None) == alone
    assert gradient.lone_linear(model.module) is None


def test_a_layer_of_which_a_part_is_frozen_is_left_to_autograd() -> None:
    layer = nn.Linear(3, 2)
    assert gradient.lone_linear(layer) is layer
    layer.weight.requires_grad_(False)
    assert gradient.lone_linear(layer) is None
