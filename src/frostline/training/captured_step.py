"""Training steps as CUDA graphs: captured once per batch shape, then replayed with one launch.

Some twenty small operations take a GPU less time than it takes Python to launch them. A graph launches all of them at
once, with the same kernels (A. Gray, Getting Started with CUDA Graphs, NVIDIA 2019). On capture, its results are
compared bit for bit with the plain step; if they differ, or capturing fails, steps stay plain.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

import torch
from torch import Tensor

from frostline.core import garbage
from frostline.core.errors import first_line

_AFTER = 32
"""Plain steps of a shape before it is captured: for fewer steps, capturing would take longer."""


@dataclass(frozen=True)
class _Captured:
    """A captured step of one shape: its input and output tensors, and its graph."""

    inputs: Tensor
    targets: Tensor
    logits: Tensor
    graph: torch.cuda.CUDAGraph


class CapturedStep:
    """Executes steps on a GPU; after the first ones of a shape, with one launch per step."""

    def __init__(
        self,
        step: Callable[[Tensor, Tensor], Tensor],
        changed: Callable[[], Sequence[Tensor]],
        note: Callable[[str], None],
    ) -> None:
        """Wrap `step(inputs, targets)`, which returns logits.

        For a given shape, `step` must launch the same operations on the same memory each time, draw no random numbers
        and not wait for the device; `changed` returns all tensors that it changes and reads again. `note` is called
        once, with the reason, if steps cannot be captured.
        """
        self._step, self._changed, self._note = step, changed, note
        self._made: dict[torch.Size, int] = {}
        self._captured: dict[torch.Size, _Captured] = {}
        self._possible = True

    def __call__(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Execute the step on a batch and return its logits, in their own memory."""
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
        """Execute a step plainly and as a graph, and keep the graph if all bits agree."""
        changed = self._changed()
        before = _copies(changed)
        logits = self._step(inputs, targets)
        after = _copies(changed)
        _put(changed, before)
        why = "results would differ in their last bits"
        try:
            captured = self._capture(inputs, targets)
            captured.graph.replay()
            found = [captured.logits, *changed]
            if all(torch.allclose(a, b, 0, 0, equal_nan=True) for a, b in zip(found, [logits, *after], strict=True)):
                self._captured[inputs.shape] = captured
                return logits
        except RuntimeError as error:
            why = first_line(error.__context__ or error)  # the end of a failed capture raises an error of its own
        _put(changed, after)
        self._possible = False
        self._note(f"  note: steps are launched one operation at a time, without a CUDA graph ({why})")
        return logits

    def _capture(self, inputs: Tensor, targets: Tensor) -> _Captured:
        graph, device, pool = torch.cuda.CUDAGraph(), inputs.device, torch.cuda.graph_pool_handle()
        try:
            with (
                garbage.paused(),  # the end of an older graph would make the capture fail
                torch.cuda.stream(torch.cuda.current_stream(device)),  # restored even if the capture fails
                torch.cuda.graph(
                    graph,
                    pool=pool,
                    stream=_aside(device),
                    capture_error_mode="thread_local",  # other threads may use the GPU
                ),
            ):
                logits = self._step(inputs, targets)
        except RuntimeError:
            _end_failed_capture(device, pool)
            raise
        return _Captured(inputs, targets, logits, graph)


def _end_failed_capture(device: torch.device, pool: tuple[int, int]) -> None:
    """Take torch's memory and random numbers on `device` out of a failed capture into `pool`.

    torch 2.11, unlike 2.15, leaves them in it: its cache cannot be emptied any more, and no dropout can be drawn
    (https://github.com/pytorch/pytorch/pull/180395). A capture that succeeds resets the random numbers.
    """
    with suppress(RuntimeError):  # 2.15 has ended it
        torch._C._cuda_endAllocateToPool(device.index, pool)
    one = torch.ones(1, device=device)
    with (
        garbage.paused(),  # as above
        torch.cuda.graph(torch.cuda.CUDAGraph(), stream=_aside(device), capture_error_mode="thread_local"),
    ):
        one.add_(1)


@functools.cache
def _aside(device: torch.device) -> torch.cuda.Stream:
    """Return the one stream on which all steps of a device are captured: cuBLAS keeps 32 MB per stream."""
    return torch.cuda.Stream(device)


def _copies(tensors: Sequence[Tensor]) -> list[Tensor]:
    return [tensor.detach().clone() for tensor in tensors]


@torch.no_grad()
def _put(tensors: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    for tensor, value in zip(tensors, values, strict=True):
        tensor.copy_(value)
