"""Networks are compiled on request or if it pays, and give the same results."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from frostline.core.errors import UserError
from frostline.runs import compiling
from frostline.runs.compiling import Compiled, compiled
from frostline.training.evaluation import evaluate
from frostline.training.steps import TrainedPart
from small import Samples

BATCHES_OF_8 = {"batch_size": 8, "epoch": 1}


def part() -> TrainedPart:
    samples = Samples(torch.randn(16, 8, generator=torch.Generator().manual_seed(0)), torch.arange(16) % 3)
    network = nn.Sequential(nn.Linear(8, 4, bias=False), nn.Dropout(), nn.Linear(4, 3, bias=False))
    return TrainedPart(network, samples, None)


def test_counting_operations_changes_nothing() -> None:
    one = part()
    assert compiling.operations(one, 1) == 2 * 8 * 4 + 2 * 4 * 3
    assert all(layer.training for layer in one.network.modules())


def test_operations_of_a_layer_whose_input_is_a_parameter_are_counted() -> None:
    class Pool(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.query, self.project = nn.Parameter(torch.ones(1, 8)), nn.Linear(8, 8, bias=False)

        def forward(self, inputs: Tensor) -> Tensor:
            return inputs @ self.project(self.query.expand(len(inputs), -1)).T

    pool = Pool()
    assert compiling.operations(replace(part(), network=pool), 1) == 2 * 8 * 8 + 2 * 8
    assert pool.query.requires_grad and isinstance(pool.query, nn.Parameter)


@pytest.mark.parametrize("choice", ["auto", "off"])
def test_cpu_network_is_not_compiled_by_default(choice: str) -> None:
    one = part()
    assert compiled(one, choice, images=10**15, **BATCHES_OF_8, say=pytest.fail) is one


def test_auto_compiles_only_long_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    one, messages = part(), list[str]()
    monkeypatch.setattr(compiling.torch, "compile", lambda network, dynamic: nn.Identity())
    labels = torch.zeros(16, device="meta")
    on_gpu = replace(one, data=Samples(one.data.inputs(torch.arange(16), 1), labels))  # labels seem to be on a GPU
    assert compiled(on_gpu, "auto", images=1000, **BATCHES_OF_8, say=messages.append) is on_gpu
    assert not messages
    assert isinstance(compiled(on_gpu, "auto", images=10**15, **BATCHES_OF_8, say=messages.append).network, Compiled)
    assert len(messages) == 1


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a C++ compiler on a CPU")
def test_compiled_network_gives_the_same_results() -> None:
    one, messages = part(), list[str]()
    two = compiled(one, "on", images=16, **BATCHES_OF_8, say=messages.append)
    assert two.network is not one.network
    assert len(messages) == 1
    plain, optimized = (evaluate(each.network, each.data, batch_size=8, autocast=None) for each in (one, two))
    assert torch.allclose(plain.logits, optimized.logits, atol=1e-6)


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Compile without code generation, and return the batch size of each traced graph."""
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


def test_graph_is_shared_by_a_limited_number_of_runs(graphs: list[int]) -> None:
    for number in range(1, 20):  # more than torch's limit of compilations of one function
        one = part()
        network = compiled(one, "on", images=16, **BATCHES_OF_8, say=lambda line: None).network
        for size in (8, 8, 3, 8, 3):
            inputs = torch.randn(size, 8)
            torch.manual_seed(0)
            found = network(inputs)
            torch.manual_seed(0)
            assert torch.equal(found, one.network(inputs))
        assert graphs == [8] * math.ceil(number / compiling._TOGETHER)


@pytest.mark.slow
def test_runs_with_other_trainable_layers_compile_anew(graphs: list[int]) -> None:
    for number in range(1, 20):
        one = part()
        one.network[2].requires_grad_(number % 2 == 0)
        network = compiled(one, "on", images=16, **BATCHES_OF_8, say=lambda line: None).network
        network(torch.randn(8, 8)).sum().backward()
        assert (one.network[2].weight.grad is None) == (number % 2 == 1)
        assert graphs == [8] * number


def test_equally_cut_networks_share_a_graph(graphs: list[int]) -> None:
    for number in range(1, 7):
        one = part()
        whole = one.network if number < 4 else nn.Sequential(*one.network, nn.Tanh())
        inputs, cut = torch.randn(8, 8), torch.fx.symbolic_trace(whole.eval())
        network = compiled(replace(one, network=cut), "on", images=16, **BATCHES_OF_8, say=lambda line: None).network
        assert torch.equal(network(inputs), whole(inputs))
        assert graphs == [8] * (1 if number < 4 else 2)


def test_failed_compilation_raises_only_if_requested(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> torch.Tensor:
        raise RuntimeError("Failed to find C compiler\nand much more")

    monkeypatch.setattr(compiling.torch, "compile", lambda network, dynamic: fails)
    one, messages = part(), list[str]()
    network = Compiled(one.network.eval(), 8, required=False, say=messages.append)
    inputs = torch.randn(8, 8)
    for _ in range(2):
        assert torch.equal(network(inputs), one.network(inputs))
    assert messages == ["  the network is not compiled: Failed to find C compiler"]
    expected = r"^compile=on: expected a network that torch can compile here \(Failed to find C compiler\)"
    with pytest.raises(UserError, match=expected):
        Compiled(one.network, 8, required=True, say=pytest.fail)(inputs)


def test_out_of_memory_is_no_failed_compilation(monkeypatch: pytest.MonkeyPatch) -> None:
    def too_large(inputs: torch.Tensor) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(compiling.torch, "compile", lambda network, dynamic: too_large)
    for required in (True, False):
        with pytest.raises(torch.OutOfMemoryError):
            Compiled(part().network, 8, required=required, say=pytest.fail)(torch.randn(8, 8))
