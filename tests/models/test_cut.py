"""Cutting a network at a stage border: both halves together equal the network bit for bit."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from families import MEMBERS, member
from frostline.models import cut, freezing
from frostline.models.build import Model
from frostline.models.freezing import Phase
from frostline.models.stages import of_levels
from frostline.store import hashing
from small import mode, network, resolve


def with_statistics(name: str) -> tuple[Model, torch.Tensor]:
    """Return a network in eval mode whose batch norms have seen images, and two other images."""
    model = member(name)
    side = model.input.size
    images = torch.randn(6, 3, side, side, generator=torch.Generator().manual_seed(0))
    norms = [layer for layer in model.module.modules() if isinstance(layer, nn.BatchNorm2d)]
    for layer in norms:
        layer.momentum = 1.0
    if norms:
        with torch.no_grad():
            model.module.train()(images[:4])
    model.module.eval()
    return model, images[4:]


@pytest.mark.parametrize("name", MEMBERS)
def test_halves_equal_the_whole_network_at_every_border(name: str) -> None:
    model, images = with_statistics(name)
    stages = model.structure.stages
    parts, passed = cut.segments(model.module, model.structure), images
    assert tuple(parts) == stages[:-1]
    with torch.inference_mode():
        whole = model.module(images)
        for border in range(1, len(stages)):
            lower, upper = cut.halves(model.module, model.structure, stages[:border])
            features = lower(images)
            assert torch.equal(upper(features), whole), stages[border]
            passed = parts[stages[border - 1]](passed)
            assert torch.equal(passed, features), stages[border]
            owners = {id(p): model.structure.stage_of(name) for name, p in model.module.named_parameters()}
            assert {owners[id(p)] for p in lower.parameters()} <= set(stages[:border])
            assert {owners[id(p)] for p in upper.parameters()} == set(stages[border:])


class _Small(nn.Module):
    """A network whose second border more than one tensor, or a number beside it, seems to cross."""

    def __init__(self, beside: str) -> None:
        super().__init__()
        self.low, self.inner, self.high = (nn.Conv2d(3, 3, 1) for _ in range(3))
        self.head = nn.Linear(3, 2)
        self.beside = beside

    def forward(self, x: torch.Tensor) -> Any:
        low = self.low(x)
        if self.beside == "pair":
            left, right = low.chunk(2, 3)
            return self.head(self.high(self.inner(left) - self.inner(right).relu()).mean((2, 3)))
        above = self.high(self.inner(low))
        if self.beside == "shortcut":
            above = above + low
        elif self.beside == "count":
            above = above * low.shape[0]
        elif self.beside == "width":
            above = above * low.shape[-1] * x.shape[-1]
        elif self.beside == "size":
            above = self.high(F.interpolate(above, size=low.shape[2:]))
        return self.head(above.mean((2, 3)))


@pytest.mark.parametrize(
    ("beside", "cuts"),
    [
        ("shortcut", [0, 1, 1, 3]),
        ("count", [0, 1, 1, 3]),
        *((name, [0, 1, 2, 3]) for name in ("width", "size", "pair")),
    ],
)
def test_network_is_cut_at_the_highest_border_that_one_tensor_crosses(beside: str, cuts: list[int]) -> None:
    module, images = _Small(beside), torch.randn(5, 3, 4, 4)
    order = {"low": 0, "inner": 1, "high": 2, "head": 3}
    structure = of_levels(
        module, {name: order[name.partition(".")[0]] for name in module.state_dict()}, ("head",), side=4
    )
    stages, expected = structure.stages, module(images)
    assert [cut.cuttable(module, structure, stages[:count]) for count in range(4)] == [stages[:count] for count in cuts]
    passed = images
    for part in (parts := cut.segments(module, structure)).values():
        passed = part(passed)
    assert [*parts] == [stages[count - 1] for count in sorted({*cuts} - {0})]
    torch.testing.assert_close(module.head(passed), expected)
    for count in {*cuts} - {0}:
        lower, upper = cut.halves(module, structure, stages[:count])
        assert isinstance(lower(images), torch.Tensor)
        torch.testing.assert_close(upper(lower(images)), expected)
    if cuts[2] == 1:
        with pytest.raises(ValueError, match="several tensors cross the border above stage1"):
            cut.halves(module, structure, stages[:2])


def test_halves_follow_the_networks_train_mode() -> None:
    model = network("efficientnet_b0", image_size=32)
    stages = model.structure.stages
    _, upper = cut.halves(model.module, model.structure, stages[:-1])
    images = torch.randn(4, 1280)
    model.module.eval()
    assert torch.equal(upper(images), upper(images))
    model.module.train()
    assert not torch.equal(upper(images), upper(images))  # dropout is active


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [
        ("head", [4]),
        ("last_stage", [3]),
        ("last_two_stages", [2]),
        ("full", [0]),
        ("bias", [0]),
        ("norm", [0]),
        ("first_stage", [0]),
        ("lp_ft", [4, 0]),
        ("gradual", [4, 3, 2, 1, 0]),
    ],
)
def test_cut_is_below_the_lowest_learning_stage(chosen: str, expected: list[int]) -> None:
    model = network()
    phases = resolve(model, mode(chosen))
    assert [len(cut.stages_below(model.structure, phase)) for phase in phases] == expected


def test_frozen_stage_above_a_learning_one_is_not_below() -> None:
    model = network()
    names = [name for name, _ in model.module.named_parameters()]
    learns = {"stem", "stage2"}
    phase = Phase(1.0, {name: float(model.structure.stage_of(name) in learns) for name in names})
    freezing.freeze(model.module, model.structure, phase, norm_stats="learn")
    assert cut.stages_below(model.structure, phase) == ()


def test_hash_covers_exactly_the_tensors_below_the_cut() -> None:
    model = network()
    lower, _ = cut.halves(model.module, model.structure, model.structure.stages[:2])
    found = {hashing.of_tensors(lower.state_dict(keep_vars=True))}
    with torch.no_grad():
        model.module.fc.weight.add_(1)
        assert hashing.of_tensors(lower.state_dict(keep_vars=True)) in found
        for tensor in lower.state_dict().values():
            tensor.view(-1)[0] += 1
            new = hashing.of_tensors(lower.state_dict(keep_vars=True))
            assert new not in found
            found.add(new)
