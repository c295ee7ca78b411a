"""Cutting a network at a stage border: both halves together equal the network bit for bit."""

from __future__ import annotations

import pytest
import torch
from torch import nn

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


class _Shortcut(nn.Module):
    """A network in which two tensors cross the border above stage 1."""

    def __init__(self) -> None:
        super().__init__()
        self.low, self.inner, self.high = (nn.Conv2d(3, 3, 1) for _ in range(3))
        self.head = nn.Linear(3, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        low = self.low(x)
        return self.head((self.high(self.inner(low)) + low).mean((2, 3)))


def test_network_is_cut_at_the_highest_border_that_one_tensor_crosses() -> None:
    module, images = _Shortcut(), torch.randn(2, 3, 4, 4)
    levels = {
        f"{layer}.{leaf}": n for n, layer in enumerate(("low", "inner", "high", "head")) for leaf in ("weight", "bias")
    }
    structure = of_levels(module, levels, ("head",), side=4)
    found = [cut.cuttable(module, structure, structure.stages[:count]) for count in range(4)]
    assert found == [(), ("stem",), ("stem",), ("stem", "stage1", "stage2")]
    with pytest.raises(ValueError, match="several tensors cross the border above stage1"):
        cut.halves(module, structure, ("stem", "stage1"))
    parts = cut.segments(module, structure)
    assert [*parts] == ["stem", "stage2"]
    torch.testing.assert_close(module.head(parts["stage2"](parts["stem"](images))), module(images))


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
