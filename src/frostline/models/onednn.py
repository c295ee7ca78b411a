"""Fused operations of oneDNN under torch's private names: those that torch.compile uses on a CPU, without compiling.

If a version of torch lacks them, `available` returns False and networks run unfused. The benchmark `fused convolutions`
measures what they save.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

Activation = tuple[str, tuple[float, ...], str]
"""oneDNN's name, constants and variant of an activation."""


def available() -> bool:
    """Return whether this torch and this CPU support the fused operations in bfloat16."""
    ops = torch.ops.mkldnn
    names = ("_convolution_pointwise", "_convolution_pointwise_", "_is_mkldnn_bf16_supported")
    there = torch.backends.mkldnn.is_available() and all(hasattr(ops, name) for name in names)
    return bool(there and ops._is_mkldnn_bf16_supported())


def activated(x: Tensor, weight: Tensor, bias: Tensor | None, how: Sequence[Any], activation: Activation) -> Tensor:
    """Return the activated convolution of `x`; `how` is its padding, stride, dilation and groups."""
    found: Tensor = torch.ops.mkldnn._convolution_pointwise(x, weight, bias, *how, *activation)
    return found


def added(x: Tensor, shortcut: Tensor, weight: Tensor, bias: Tensor | None, how: Sequence[Any]) -> Tensor:
    """Return ReLU of the convolution of `x` plus `shortcut`; overwrites `shortcut`."""
    operation = torch.ops.mkldnn._convolution_pointwise_.binary
    found: Tensor = operation(shortcut, x, weight, bias, *how, "add", 1.0, "relu", (), "")
    return found
