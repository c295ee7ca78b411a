"""Whether a network is worth compiling: that costs its time once, and gives back a share of every step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import FunctionType
from typing import ClassVar, cast

import torch
from torch import Tensor, fx, nn
from torch.utils.flop_counter import FlopCounterMode

from frostline.core.errors import first_line, user_error
from frostline.training.evaluation import evaluating
from frostline.training.steps import TrainedPart

WORTH = 5e16
"""Floating point operations from which compiling pays on a GPU: half a minute of compiling is earned back by a gain of
a tenth on 300 s of training at some 150 TFLOP/s. An estimate, to be replaced by a measurement."""

_TOGETHER = 4
"""Runs that share what is compiled, at most: should torch compile two graphs for each, it gives up after the fourth."""

_classes: dict[tuple[str, tuple[int, ...]], type[fx.GraphModule]] = {}
"""Those of networks that were cut, by what they compute: each has code of its own, by which torch knows it again."""


def compiled(
    part: TrainedPart, choice: str, *, images: int, batch_size: int, epoch: int, say: Callable[[str], None]
) -> TrainedPart:
    """Return `part` with its network compiled, or as it is, and `say` so where that was for us to decide.

    `on` and `off` decide; `auto` compiles what is long enough to pay for it, on a GPU: `images` is how many are still
    to be seen in the phase that begins in `epoch`. On a CPU the gain is small, and the bits would be others. Where it
    cannot be compiled, for want of a C compiler perhaps, `auto` trains it as it is; a UserError for `on`.
    """
    if choice == "off" or (choice == "auto" and part.train.labels.device.type == "cpu"):
        return part
    total = 3 * images * operations(part, epoch)  # a backward pass costs twice a forward one
    if choice == "auto" and total < WORTH:
        return part
    say(f"  compiling the network, for {total:.1g} floating point operations")
    return replace(part, network=Compiled(part.network, batch_size, required=choice == "on", say=say))


class Compiled(nn.Module):
    """A network that is compiled once, for batches of one size; others, such as an epoch's last one, it takes as it is.

    Runs in a row that train the same network share what was compiled, which saves ResNet-18 a second. All else that
    torch compiled before is forgotten first: by itself it would give up after the eighth time, and the bits of a run
    would depend on those before it. Kernels are found again on disk.
    """

    _sharing: ClassVar[tuple[object, int]] = None, 0
    """What is compiled by now, and for how many runs."""

    def __init__(self, network: nn.Module, batch_size: int, *, required: bool, say: Callable[[str], None]) -> None:
        """Compile `network` when the first whole batch comes; what is `required` is not trained in another way."""
        super().__init__()
        self.network = network
        self._batch_size, self._required, self._say = batch_size, required, say
        if isinstance(network, fx.GraphModule):
            named = cast(FunctionType, type(network).forward).__globals__
            network.__class__ = _classes.setdefault((network.code, tuple(map(id, named.values()))), type(network))
        learning = [(*one.shape, one.dtype, one.requires_grad) for one in network.parameters()]
        this = type(network), repr(network), learning, batch_size  # torch sees for itself whether it is the same
        last, runs = Compiled._sharing
        if this != last or runs == _TOGETHER:
            torch.compiler.reset()
            runs = 0
        Compiled._sharing = this, runs + 1
        self._fast: Callable[[Tensor], Tensor] | None = torch.compile(network, dynamic=False)
        self._tried = False

    def forward(self, inputs: Tensor) -> Tensor:
        """Return what the network makes of a batch."""
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
    """Return the floating point operations of one forward pass for one sample, counted layer by layer."""
    inputs = part.train.inputs(torch.arange(1), epoch)
    with torch.inference_mode(), evaluating(part.network), FlopCounterMode(display=False) as counter:
        part.network(inputs)
    return counter.get_total_flops()
