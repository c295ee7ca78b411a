"""A network cut at any stage border: both halves together are the whole, bit for bit."""

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


def lively(name: str) -> tuple[Model, torch.Tensor]:
    """Return a member of a family whose norm layers have statistics of some images, in eval mode, and two others."""
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
def test_halves_are_together_the_whole_at_every_border_of_every_family(name: str) -> None:
    model, images = lively(name)
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


def test_halves_follow_the_modes_of_the_whole() -> None:
    model = network("efficientnet_b0", image_size=32)
    stages = model.structure.stages
    _, upper = cut.halves(model.module, model.structure, stages[:-1])
    images = torch.randn(4, 1280)
    model.module.eval()
    assert torch.equal(upper(images), upper(images))
    model.module.train()
    assert not torch.equal(upper(images), upper(images))  # the dropout under the head is alive again


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
def test_the_line_lies_under_the_lowest_stage_that_learns(chosen: str, expected: list[int]) -> None:
    model = network()
    phases = resolve(model, mode(chosen))
    assert [len(cut.stages_below(model.structure, phase)) for phase in phases] == expected


def test_a_frozen_stage_above_one_that_learns_is_no_part_of_what_lies_below() -> None:
    model = network()
    names = [name for name, _ in model.module.named_parameters()]
    learns = {"stem", "stage2"}
    phase = Phase(1.0, {name: float(model.structure.stage_of(name) in learns) for name in names})
    freezing.freeze(model.module, model.structure, phase, norm_stats="learn")
    assert cut.stages_below(model.structure, phase) == ()


def test_the_hash_changes_with_every_tensor_and_with_nothing_above_the_line() -> None:
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
