"""Compiling: asked for or worth it, said so, and the same network afterwards."""

from __future__ import annotations

import shutil
from dataclasses import replace

import pytest
import torch
from torch import nn

from frostline.runs import compiling
from frostline.runs.compiling import compiled
from frostline.training.evaluation import evaluate
from frostline.training.steps import TrainedPart
from small import Samples


def part() -> TrainedPart:
    samples = Samples(torch.randn(16, 8, generator=torch.Generator().manual_seed(0)), torch.arange(16) % 3)
    network = nn.Sequential(nn.Linear(8, 4, bias=False), nn.Dropout(), nn.Linear(4, 3, bias=False))
    return TrainedPart(network, samples, None, network, samples, None)


def test_operations_are_counted_layer_by_layer_and_change_nothing() -> None:
    one = part()
    assert compiling.operations(one, 1) == 2 * 8 * 4 + 2 * 4 * 3
    assert all(layer.training for layer in one.network.modules())


@pytest.mark.parametrize("choice", ["auto", "off"])
def test_a_cpu_runs_the_network_as_it_is(choice: str) -> None:
    one = part()
    assert compiled(one, choice, images=10**15, epoch=1, say=pytest.fail) is one


def test_auto_compiles_what_is_long_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    class Elsewhere(Samples):
        """Samples that claim to lie on a GPU."""

    one, said = part(), list[str]()
    monkeypatch.setattr(compiling.torch, "compile", lambda network: nn.Identity())
    labels = torch.zeros(16, device="meta")
    there = replace(one, train=Elsewhere(one.train.inputs(torch.arange(16), 1), labels))
    assert compiled(there, "auto", images=1000, epoch=1, say=said.append) is there
    assert not said
    assert isinstance(compiled(there, "auto", images=10**15, epoch=1, say=said.append).network, nn.Identity)
    assert len(said) == 1


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a C++ compiler on a CPU")
def test_a_compiled_network_gives_the_same_results() -> None:
    one, said = part(), list[str]()
    two = compiled(one, "on", images=16, epoch=1, say=said.append)
    assert two.network is not one.network
    assert len(said) == 1
    ours, theirs = (evaluate(each.network, each.val, batch_size=8, autocast=None) for each in (one, two))
    assert torch.allclose(ours.logits, theirs.logits, atol=1e-6)
