"""Compile a network with torch.compile if that pays: it costs time once, and saves a share of every step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import FunctionType
from typing import ClassVar, cast

import torch
from torch import Tensor, fx, nn
from torch.func import functional_call
from torch.utils.flop_counter import FlopCounterMode

from frostline.core.errors import first_line, user_error
from frostline.training.evaluation import evaluating
from frostline.training.steps import TrainedPart

WORTH = 5e16
"""Floating point operations from which on compiling pays on a GPU: half a minute of compilation is recovered by a gain
of a tenth on 300 s of training at some 150 TFLOP/s. An estimate, to be replaced by a measurement."""

_TOGETHER = 4
"""Runs that share a compiled network, at most: if torch compiles two graphs for each, it gives up after the fourth."""

_classes: dict[tuple[str, tuple[int, ...]], type[fx.GraphModule]] = {}
"""Classes of cut networks by their code: torch recognises an already compiled network by its class."""


def compiled(
    part: TrainedPart, choice: str, *, images: int, batch_size: int, epoch: int, say: Callable[[str], None]
) -> TrainedPart:
    """Return `part` with its network compiled, or unchanged; `say` reports a compilation.

    `choice` is `on`, `off` or `auto`, which compiles on a GPU if training is long enough: `images` is the number of
    images in the phase, which begins in `epoch`. On a CPU the gain is small, and bits would change. If compilation
    fails, e.g. without a C compiler, `auto` trains the plain network; `on` raises UserError.
    """
    if choice == "off" or (choice == "auto" and part.data.labels.device.type == "cpu"):
        return part
    total = 3 * images * operations(part, epoch)  # a backward pass costs two forward passes
    if choice == "auto" and total < WORTH:
        return part
    say(f"  compiling the network, for {total:.1g} floating point operations")
    return replace(part, network=Compiled(part.network, batch_size, required=choice == "on", say=say))


class Compiled(nn.Module):
    """A network compiled for one batch size; batches of other sizes, such as an epoch's last one, run uncompiled.

    Consecutive runs that train the same network share the compiled code, which saves ResNet-18 a second. Before a
    different network is compiled, torch's compilation state is reset: otherwise torch would give up after the eighth
    compilation, and bits would depend on earlier runs. Compiled kernels are still found in the cache on disk.
    """

    _sharing: ClassVar[tuple[object, int]] = None, 0
    """The compiled network, and the number of runs that have used it."""

    def __init__(self, network: nn.Module, batch_size: int, *, required: bool, say: Callable[[str], None]) -> None:
        """Compile `network` on the first whole batch; if that fails, raise UserError if `required`, else `say` so."""
        super().__init__()
        self.network = network
        self._batch_size, self._required, self._say = batch_size, required, say
        if isinstance(network, fx.GraphModule):
            named = cast(FunctionType, type(network).forward).__globals__
            network.__class__ = _classes.setdefault((network.code, tuple(map(id, named.values()))), type(network))
        learning = [(*one.shape, one.dtype, one.requires_grad) for one in network.parameters()]
        this = type(network), repr(network), learning, batch_size  # torch itself checks the rest
        last, runs = Compiled._sharing
        if this != last or runs == _TOGETHER:
            torch.compiler.reset()
            runs = 0
        Compiled._sharing = this, runs + 1
        self._fast: Callable[[Tensor], Tensor] | None = torch.compile(network, dynamic=False)
        self._tried = False

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the network's output for a batch."""
        if self._fast is None or len(inputs) != self._batch_size:
            return cast(Tensor, self.network(inputs))
        if self._tried:
            return self._fast(inputs)
        try:
            outputs = self._fast(inputs)
            self._tried = True
            return outputs
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            reason = first_line(error)
            if self._required:
                raise user_error("compile", "on", f"a network that torch can compile here ({reason})") from error
            self._say(f"  the network is not compiled: {reason}")
            self._fast = None
            return cast(Tensor, self.network(inputs))


def operations(part: TrainedPart, epoch: int) -> int:
    """Return the number of floating point operations of a forward pass for one sample, counted by running it."""
    inputs = part.data.inputs(torch.arange(1), epoch)
    # The counter fails where a layer's input is a parameter with gradient, such as the query of an attention pool.
    weights = {name: parameter.detach() for name, parameter in part.network.named_parameters()}
    with torch.inference_mode(), evaluating(part.network), FlopCounterMode(display=False) as counter:
        functional_call(part.network, weights, (inputs,))
    return counter.get_total_flops()
