"""Compiling: asked for or worth it, said so, and the same network afterwards."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from frostline.core.errors import UserError
from frostline.runs import compiling
from frostline.runs.compiling import Compiled, compiled
from frostline.training.evaluation import evaluate
from frostline.training.steps import TrainedPart
from small import Samples

OF_EIGHT = {"batch_size": 8, "epoch": 1}


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
    assert compiled(one, choice, images=10**15, **OF_EIGHT, say=pytest.fail) is one


def test_auto_compiles_what_is_long_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    class Elsewhere(Samples):
        """Samples that claim to lie on a GPU."""

    one, said = part(), list[str]()
    monkeypatch.setattr(compiling.torch, "compile", lambda network, dynamic: nn.Identity())
    labels = torch.zeros(16, device="meta")
    there = replace(one, train=Elsewhere(one.train.inputs(torch.arange(16), 1), labels))
    assert compiled(there, "auto", images=1000, **OF_EIGHT, say=said.append) is there
    assert not said
    assert isinstance(compiled(there, "auto", images=10**15, **OF_EIGHT, say=said.append).network, Compiled)
    assert len(said) == 1


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a C++ compiler on a CPU")
def test_a_compiled_network_gives_the_same_results() -> None:
    one, said = part(), list[str]()
    two = compiled(one, "on", images=16, **OF_EIGHT, say=said.append)
    assert two.network is not one.network
    assert len(said) == 1
    ours, theirs = (evaluate(each.network, each.val, batch_size=8, autocast=None) for each in (one, two))
    assert torch.allclose(ours.logits, theirs.logits, atol=1e-6)


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Let what is compiled from now on run as it was traced; returns the batch size of each graph."""
    monkeypatch.setattr(Compiled, "_sharing", (None, 0))
    found: list[int] = []
    compile_with = torch.compile

    def backend(graph: torch.fx.GraphModule, examples: list[torch.Tensor]) -> Callable[..., Any]:
        found.extend(len(one) for one in examples if one.dim() == 2 and one.shape[1] == 8 and not one.requires_grad)
        return graph.forward

    monkeypatch.setattr(
        compiling.torch, "compile", lambda net, dynamic: compile_with(net, dynamic=dynamic, backend=backend)
    )
    return found


def test_one_graph_serves_every_batch_and_the_runs_of_one_network_but_not_for_ever(graphs: list[int]) -> None:
    for number in range(1, 20):  # more often than torch compiles the same code
        one = part()
        network = compiled(one, "on", images=16, **OF_EIGHT, say=lambda line: None).network
        for size in (8, 8, 3, 8, 3):
            inputs = torch.randn(size, 8)
            torch.manual_seed(0)
            found = network(inputs)
            torch.manual_seed(0)
            assert torch.equal(found, one.network(inputs))
        assert graphs == [8] * math.ceil(number / compiling._TOGETHER)


@pytest.mark.slow
def test_nothing_is_left_of_runs_that_learn_something_else(graphs: list[int]) -> None:
    for number in range(1, 20):
        one = part()
        one.network[2].requires_grad_(number % 2 == 0)
        network = compiled(one, "on", images=16, **OF_EIGHT, say=lambda line: None).network
        network(torch.randn(8, 8)).sum().backward()
        assert (one.network[2].weight.grad is None) == (number % 2 == 1)
        assert graphs == [8] * number


def test_networks_that_are_cut_alike_share_one_graph_and_others_keep_their_own(graphs: list[int]) -> None:
    for number in range(1, 7):
        one = part()
        whole = one.network if number < 4 else nn.Sequential(*one.network, nn.Tanh())
        inputs, cut = torch.randn(8, 8), torch.fx.symbolic_trace(whole.eval())
        network = compiled(replace(one, network=cut), "on", images=16, **OF_EIGHT, say=lambda line: None).network
        assert torch.equal(network(inputs), whole(inputs))
        assert graphs == [8] * (1 if number < 4 else 2)


def test_what_cannot_be_compiled_is_trained_as_it_is_unless_that_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> torch.Tensor:
        raise RuntimeError("Failed to find C compiler\nand much more")

    monkeypatch.setattr(compiling.torch, "compile", lambda network, dynamic: fails)
    one, said = part(), list[str]()
    network = Compiled(one.network.eval(), 8, required=False, say=said.append)
    inputs = torch.randn(8, 8)
    for _ in range(2):
        assert torch.equal(network(inputs), one.network(inputs))
    assert said == ["  the network is not compiled: Failed to find C compiler"]
    expected = r"^compile=on: expected a network that torch can compile here \(Failed to find C compiler\)"
    with pytest.raises(UserError, match=expected):
        Compiled(one.network, 8, required=True, say=pytest.fail)(inputs)
