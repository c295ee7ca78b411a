"""Cutting a network at a stage border: both halves together equal the network bit for bit."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from families import MEMBERS, member
from frostline.models import cut, freezing
from frostline.models.build import Model
from frostline.models.freezing import Phase
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
