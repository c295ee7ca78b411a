"""A training step as one launch: captured in a CUDA graph, and replayed on every batch of its shape.

Some twenty small operations take a GPU less time than it takes Python to launch them. A graph launches all at once, and
computes with the same kernels (A. Gray, Getting Started with CUDA Graphs, NVIDIA 2019). That it has the same bits is
tried where it is captured; where it has others, or cannot be captured, steps go on one operation at a time.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

_AFTER = 32
"""Steps of a shape that are made before it is captured: some that are few take less time than to capture one."""


@dataclass(frozen=True)
class _Captured:
    """A step of one shape: what it reads, what it leaves, and the graph that makes it."""

    inputs: Tensor
    targets: Tensor
    logits: Tensor
    graph: torch.cuda.CUDAGraph


class CapturedStep:
    """Makes steps on a GPU, those of a shape in one launch after the first ones."""

    def __init__(
        self,
        step: Callable[[Tensor, Tensor], Tensor],
        changed: Callable[[], Sequence[Tensor]],
        note: Callable[[str], None],
    ) -> None:
        """Make the steps that `step(inputs, targets)` makes, which returns their logits.

        For a shape it launches the same operations each time, in memory that stays, draws no random numbers, waits for
        nothing, and what it changes and reads again are the tensors that `changed` returns. `note` is told, once, why
        steps cannot be captured.
        """
        self._step, self._changed, self._note = step, changed, note
        self._made: dict[torch.Size, int] = {}
        self._captured: dict[torch.Size, _Captured] = {}
        self._possible = True

    def __call__(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Make the step on a batch and return its logits, in memory of their own."""
        captured = self._captured.get(inputs.shape)
        if captured is not None:
            captured.inputs.copy_(inputs)
            captured.targets.copy_(targets)
            captured.graph.replay()
            return captured.logits.clone()
        made = self._made[inputs.shape] = self._made.get(inputs.shape, 0) + 1
        if not self._possible or made <= _AFTER:
            return self._step(inputs, targets)
        return self._both_ways(inputs.clone(), targets.clone())

    def _both_ways(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Make a step as before and as a graph, and keep the graph if that comes to the same."""
        changed = self._changed()
        before = _copies(changed)
        logits = self._step(inputs, targets)
        after = _copies(changed)
        _put(changed, before)
        why = "it has other bits"
        try:
            captured = self._capture(inputs, targets)
            captured.graph.replay()
            found = [captured.logits, *changed]
            if all(torch.allclose(a, b, 0, 0, equal_nan=True) for a, b in zip(found, [logits, *after], strict=True)):
                self._captured[inputs.shape] = captured
                return logits
        except RuntimeError as error:
            why = str(error).partition("\n")[0]
        _put(changed, after)
        self._possible = False
        self._note(f"  note: steps are launched one operation at a time, since they cannot be captured here ({why})")
        return logits

    def _capture(self, inputs: Tensor, targets: Tensor) -> _Captured:
        graph, device = torch.cuda.CUDAGraph(), inputs.device
        with (
            torch.cuda.stream(torch.cuda.current_stream(device)),  # which is in use again even if the capture fails
            torch.cuda.graph(graph, stream=_aside(device), capture_error_mode="thread_local"),  # others may use the GPU
        ):
            logits = self._step(inputs, targets)
        return _Captured(inputs, targets, logits, graph)


@functools.cache
def _aside(device: torch.device) -> torch.cuda.Stream:
    """Return where all steps of a device are captured: for each such stream cuBLAS keeps 32 MB."""
    return torch.cuda.Stream(device)


def _copies(tensors: Sequence[Tensor]) -> list[Tensor]:
    return [tensor.detach().clone() for tensor in tensors]


@torch.no_grad()
def _put(tensors: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    for tensor, value in zip(tensors, values, strict=True):
        tensor.copy_(value)
