"""Whether a network is worth compiling: that costs its time once, and gives back a share of every step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import cast

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from frostline.training.evaluation import evaluating
from frostline.training.steps import TrainedPart

WORTH = 5e16
"""Floating point operations from which compiling pays on a GPU: half a minute of compiling is earned back by a gain of
a tenth on 300 s of training at some 150 TFLOP/s. An estimate, to be replaced by a measurement."""


def compiled(part: TrainedPart, choice: str, *, images: int, epoch: int, say: Callable[[str], None]) -> TrainedPart:
    """Return `part` with its network compiled, or as it is, and `say` so where that was for us to decide.

    `on` and `off` decide; `auto` compiles what is long enough to pay for it, on a GPU: `images` is how many are still
    to be seen in the phase that begins in `epoch`. On a CPU the gain is small, and the bits would be others.
    """
    if choice == "off" or (choice == "auto" and part.train.labels.device.type == "cpu"):
        return part
    total = 3 * images * operations(part, epoch)  # a backward pass costs twice a forward one
    if choice == "auto" and total < WORTH:
        return part
    say(f"  compiling the network, for {total:.1g} floating point operations")
    return replace(part, network=cast(nn.Module, torch.compile(part.network)))


def operations(part: TrainedPart, epoch: int) -> int:
    """Return the floating point operations of one forward pass for one sample, counted layer by layer."""
    inputs = part.train.inputs(torch.arange(1), epoch)
    with torch.inference_mode(), evaluating(part.network), FlopCounterMode(display=False) as counter:
        part.network(inputs)
    return counter.get_total_flops()
