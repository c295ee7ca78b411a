"""Steps of heads captured as a CUDA graph."""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from threading import Thread
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from emulated_card import EmulatedMachine, Graph
from frostline.training import captured_step, gradient
from frostline.training.captured_step import CapturedStep
from frostline.training.lockstep import Stack
from frostline.training.schedule import Rates
from heads import BATCH, make_heads
from small import compose

BATCHES = torch.arange(3 * BATCH + 4).split(BATCH)
EPOCHS = 3


@pytest.fixture(autouse=True)
def _capture_second_step() -> Iterator[None]:
    """Capture the second step of each shape."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(captured_step, "_AFTER", 1)
        yield


@dataclass
class Learned:
    """Trained heads and the counts of their training."""

    tensors: list[Tensor]
    losses: list[tuple[float, float]]
    launches: Counter[str]
    """Launches of one of the last steps, as are `waits`."""
    waits: Counter[str]
    said: list[str]


def learned(
    heads: int, seeds: int = 1, *, optimizer: str = "adamw", smoothing: float = 0.0, device: str = "cuda"
) -> Learned:
    """Train heads on an emulated GPU, each with its own learning rate and `smoothing` times its number."""
    said: list[str] = []
    losses = []
    with EmulatedMachine().running() as gpu:
        members, data = make_heads(heads, seeds, optimizer=optimizer, device=device)
        schedule, steps = compose("schedule=cosine").schedule, EPOCHS * len(BATCHES)
        for number, one in enumerate(members):
            one.rates = Rates(schedule, one.rates.lr, steps)
            one.recipe = replace(one.recipe, label_smoothing=smoothing * number)
        stack = Stack(members, data, said.append)
        assert stack.agrees(BATCHES, 1, 0)
        for epoch in range(1, EPOCHS + 1):
            for number, _ in enumerate(stack.steps(BATCHES, epoch, (epoch - 1) * len(BATCHES))):
                if number == 1:
                    launches, waits = Counter(gpu.launches), Counter(gpu.waits)
                gpu.launches.clear()
                gpu.waits.clear()
        states = [state for one in members for state in one.optimizer.state.values()]
        kept = [value.cpu() for state in states for value in state.values() if isinstance(value, Tensor)]
        weights = [parameter.detach().cpu() for one in members for parameter in one.head.linear.parameters()]
        losses = [one.finished[epoch].sums.read() for one in members[1:] for epoch in one.finished]
    return Learned([*weights, *kept], losses, launches, waits, said)


def uncaptured(monkeypatch: pytest.MonkeyPatch, heads: int, *arguments: Any, **options: Any) -> Learned:
    """Train heads without capturing any step."""
    with monkeypatch.context() as patch:
        patch.setattr(captured_step, "_AFTER", 10**6)
        return learned(heads, *arguments, **options)


def same(one: Learned, other: Learned) -> bool:
    return one.losses == other.losses and all(map(torch.equal, one.tensors, other.tensors))


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
@pytest.mark.parametrize(("heads", "seeds"), [(1, 1), (4, 1), (4, 2)])
def test_captured_step_has_the_bits_of_single_operations(
    monkeypatch: pytest.MonkeyPatch, heads: int, seeds: int, optimizer: str
) -> None:
    captured = learned(heads, seeds, optimizer=optimizer)
    assert captured.launches["graph"] == 1 and not captured.said
    one_by_one = uncaptured(monkeypatch, heads, seeds, optimizer=optimizer)
    assert not one_by_one.launches["graph"]
    assert same(captured, one_by_one)
    on_cpu = learned(heads, seeds, optimizer=optimizer, device="cpu")
    torch.testing.assert_close(captured.tensors, on_cpu.tensors)
    assert len(captured.losses) == (heads - 1) * EPOCHS
    torch.testing.assert_close(captured.losses, on_cpu.losses)


def test_single_products_are_captured(monkeypatch: pytest.MonkeyPatch) -> None:
    batched, product = learned(4, 2), torch.bmm
    monkeypatch.setattr(torch, "bmm", lambda *of, out: product(*of, out=out).mul_(1 + 1e-6))
    single = learned(4, 2)
    assert single.launches["graph"] == 1
    assert same(single, batched)


def test_heads_with_different_smoothing_are_captured(monkeypatch: pytest.MonkeyPatch) -> None:
    captured = learned(6, smoothing=0.05)  # more tables of targets than are cached
    assert captured.launches["graph"] == 1
    assert same(captured, uncaptured(monkeypatch, 6, smoothing=0.05))
    assert not same(captured, uncaptured(monkeypatch, 6))


@pytest.mark.parametrize("heads", [1, 4, 16])
def test_captured_step_has_six_launches_and_no_wait(heads: int) -> None:
    found = learned(heads)
    assert found.launches.total() == 6  # targets, two copies into the graph's inputs, the graph, two of its logits
    assert not +found.waits


def test_waiting_step_is_not_captured(monkeypatch: pytest.MonkeyPatch) -> None:
    of_logits = gradient.of_logits

    def waiting(logits: Tensor, targets: Tensor, *, several: bool) -> Tensor:
        logits.sum().item()
        return of_logits(logits, targets, several=several)

    one_by_one = uncaptured(monkeypatch, 2)
    monkeypatch.setattr(gradient, "of_logits", waiting)
    found = learned(2)
    assert found.said == [
        "  note: steps are launched one operation at a time, without a CUDA graph "
        "(CUDA error: operation not permitted when stream is capturing)"
    ]
    assert not found.launches["graph"] and same(found, one_by_one)


@pytest.mark.parametrize("number", [0, 1])
def test_failed_capture_leaves_memory_and_generator_usable(number: int) -> None:
    def waiting(inputs: Tensor, targets: Tensor) -> Tensor:
        inputs.sum().item()
        return inputs + targets

    said: list[str] = []
    with EmulatedMachine(2).running():
        torch.cuda.set_device(number)
        ones = torch.ones(3, device="cuda")
        step = CapturedStep(waiting, lambda: [ones], said.append)
        for _ in range(3):
            assert step(ones, ones).cpu().tolist() == [2, 2, 2]
        torch.cuda.empty_cache()
        assert nn.functional.dropout(ones, 0.5).cpu().sum() in (0, 2, 4, 6)
        again = CapturedStep(torch.add, lambda: [ones], said.append)  # the next run's
        for _ in range(3):
            assert again(ones, ones).cpu().tolist() == [2, 2, 2]
    assert len(said) == 1


def test_other_threads_may_wait_for_the_gpu_during_a_capture() -> None:
    def beside_another(inputs: Tensor, targets: Tensor) -> Tensor:
        if torch.cuda.is_current_stream_capturing():
            beside = Thread(target=lambda: read.append(ones.cpu().tolist()))
            beside.start()
            beside.join()
        return inputs + targets

    said: list[str] = []
    read: list[list[float]] = []
    with EmulatedMachine().running() as gpu:
        ones = torch.ones(3, device="cuda")
        step = CapturedStep(beside_another, lambda: [ones], said.append)
        for _ in range(3):
            step(ones, ones)
        assert gpu.launches["graph"] and not said and read == [[1, 1, 1]]


def test_garbage_graphs_are_not_destroyed_during_a_capture(monkeypatch: pytest.MonkeyPatch) -> None:
    def leaving_garbage(inputs: Tensor, targets: Tensor) -> Tensor:
        if torch.cuda.is_current_stream_capturing():
            circle: list[object] = [Graph()]
            circle.append(circle)
            del circle
            [[] for _ in range(100)]  # at each of which the collector looks
        return inputs + targets

    said: list[str] = []
    threshold = gc.get_threshold()
    gc.set_threshold(1)
    try:
        with EmulatedMachine().running() as gpu:
            ones = torch.ones(3, device="cuda")
            step = CapturedStep(leaving_garbage, lambda: [ones], said.append)
            for _ in range(3):
                step(ones, ones)
            assert gpu.launches["graph"] and not said and gc.isenabled()
    finally:
        gc.set_threshold(*threshold)


def test_garbage_graphs_do_not_keep_a_failed_capture_from_ending(monkeypatch: pytest.MonkeyPatch) -> None:
    add = Graph.add

    def littering(self: Graph, *of: Any) -> Any:
        circle: list[object] = [Graph()]
        circle.append(circle)
        del circle
        if gc.isenabled():
            gc.collect()
        return add(self, *of)

    monkeypatch.setattr(Graph, "add", littering)
    said: list[str] = []
    with EmulatedMachine().running():
        ones = torch.ones(3, device="cuda")
        step = CapturedStep(lambda inputs, targets: inputs + targets.sum().item(), lambda: [ones], said.append)
        for _ in range(2):
            step(ones, ones)
        torch.cuda.empty_cache()
    assert len(said) == 1


def test_graph_with_different_results_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    one_by_one = uncaptured(monkeypatch, 2)
    replay = Graph.replay

    def otherwise(self: Graph) -> None:
        replay(self)
        for written, _ in self._before.values():
            written.add_(1e-7)

    monkeypatch.setattr(Graph, "replay", otherwise)
    found = learned(2)
    assert len(found.said) == 1 and "(results would differ in their last bits)" in found.said[0]
    assert same(found, one_by_one)


def test_optimizer_with_state_on_the_host_is_not_captured() -> None:
    found = learned(2, optimizer="rmsprop")
    assert not found.launches["graph"] and not found.said
