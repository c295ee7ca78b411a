"""The closed-form gradient of a head equals autograd's, and is used only for linear heads."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import fx, nn
from torch.nn import functional as F

from frostline.models import cut, freezing
from frostline.training import gradient
from frostline.training.criterion import Targets
from frostline.training.gradient import Head
from small import mode, network, resolve


@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("before", [(), (nn.Dropout(0.3), nn.Hardswish())])
def test_closed_form_gradient_equals_autograd(
    smoothing: float, bias: bool, before: tuple[nn.Module, ...], several: bool
) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(40, 7, bias=bias)
    twin = copy.deepcopy(layer)
    inputs, labels = torch.randn(16, 40), torch.rand(16, 7) < 0.3 if several else torch.randint(7, (16,))
    torch.manual_seed(1)
    logits = gradient.of_head(Head(before, layer), inputs, labels, smoothing)
    torch.manual_seed(1)
    whole = nn.Sequential(*before, twin)
    expected, outputs = gradient.by_autograd(whole, inputs, Targets(labels, labels, 1.0, smoothing), None)
    assert torch.allclose(logits, outputs, atol=1e-6)
    for ours, theirs in zip(layer.parameters(), twin.parameters(), strict=True):
        assert ours.grad is not None and theirs.grad is not None
        assert torch.allclose(ours.grad, theirs.grad, atol=1e-7, rtol=1e-5)
    loss = gradient.losses(logits[None], labels[None], smoothing).mean()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)


def test_loss_of_mixed_labels_is_the_weighted_sum() -> None:
    layer = nn.Linear(4, 3)
    inputs, labels, partners = torch.randn(5, 4), torch.tensor([0, 1, 2, 0, 1]), torch.tensor([2, 2, 1, 1, 0])
    loss, logits = gradient.by_autograd(layer, inputs, Targets(labels, partners, 0.25, 0.0), None)
    expected = 0.25 * F.cross_entropy(logits, labels) + 0.75 * F.cross_entropy(logits, partners)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "before"),
    [
        ("resnet18", []),
        ("vit_b_16", []),
        ("mobilenet_v2", ["Dropout"]),
        ("vgg11", ["Dropout"]),
        ("squeezenet1_0", None),
    ],
)
def test_head_is_a_linear_layer_after_fixed_layers(name: str, before: list[str] | None) -> None:
    model = network(name)
    (phase,) = resolve(model, mode("head"))
    freezing.freeze(model.module, model.structure, phase, norm_stats="learn")
    _, upper = cut.halves(model.module, model.structure, cut.stages_below(model.structure, phase))
    head = gradient.head_of(upper)
    assert (head and [type(layer).__name__ for layer in head.before]) == before
    assert gradient.head_of(model.module) is None


class Odd(nn.Module):
    """A dropout and a linear layer, connected by a given forward function."""

    def __init__(self, forward: Callable[[Odd, torch.Tensor], object]) -> None:
        super().__init__()
        self.drop, self.last, self._forward = nn.Dropout(), nn.Linear(3, 3), forward

    def forward(self, x: torch.Tensor) -> object:
        return self._forward(self, x)


@pytest.mark.parametrize(
    "network",
    [
        fx.symbolic_trace(Odd(lambda odd, x: odd.last(x) + x)),
        fx.symbolic_trace(Odd(lambda odd, x: (odd.drop(x), odd.last(x))[1])),
        fx.symbolic_trace(Odd(lambda odd, x: (odd.last(x), x))),
        nn.Linear(3, 2_001),
        nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 2)),
        nn.Sequential(nn.BatchNorm1d(3, affine=False), nn.Linear(3, 2)),
        nn.Sequential(nn.Linear(3, 2), nn.ReLU()),
        nn.Sequential(),
    ],
)
def test_other_networks_use_autograd(network: nn.Module) -> None:
    assert gradient.head_of(network) is None


@pytest.mark.parametrize(("samples", "threads"), [(32, 1), (5000, 2)])
def test_small_step_uses_one_thread(samples: int, threads: int, two_threads: None) -> None:
    with gradient.threads_for(Head((), nn.Linear(512, 10)), samples):
        assert torch.get_num_threads() == threads
    assert torch.get_num_threads() == 2


def test_partly_frozen_layer_uses_autograd() -> None:
    layer = nn.Linear(3, 2)
    assert gradient.head_of(layer) == Head((), layer)
    assert gradient.head_of(nn.Sequential(nn.Identity(), layer, nn.Identity())) == Head((), layer)
    layer.weight.requires_grad_(False)
    assert gradient.head_of(layer) is None


def test_stacked_multi_label_gradients_equal_single_ones() -> None:
    logits, targets = torch.randn(2, 50, 7, 7, generator=torch.Generator().manual_seed(0))
    alone = [gradient.of_logits(*one, several=True) for one in zip(logits, targets, strict=True)]
    assert torch.equal(gradient.of_logits(logits, targets, several=True), torch.stack(alone))
