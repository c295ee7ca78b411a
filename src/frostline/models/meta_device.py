"""Build networks without weights, on torch's meta device: no time and no memory, whatever the size."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

_FILLING = {
    *(Tensor.normal_, Tensor.uniform_, nn.init.normal_, nn.init.uniform_),
    *(Tensor.erfinv_, Tensor.mul_, Tensor.add_, Tensor.clamp_),  # timm's truncated normal distribution uses these
}


def skeleton(build: Callable[[], nn.Module]) -> nn.Module:
    """Return the network with uninitialised weights: on the meta device, unless it has non-persistent buffers.

    Non-persistent buffers, such as computed positions, have their values; weights are then allocated on the CPU.
    """
    with Weightless():
        module = build()
    if any(part._non_persistent_buffers_set for part in module.modules()):
        with _Unfilled():
            module = build()
    return module


def empty(module: nn.Module) -> None:
    """Move the tensors of a network's state dict to the meta device."""
    state = {id(tensor) for tensor in module.state_dict(keep_vars=True).values()}
    module._apply(lambda tensor: tensor.to("meta") if id(tensor) in state else tensor)


class _Unfilled(TorchFunctionMode):
    """Skips the initialisation of new parameters, which takes most of the time of building a large network."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = kwargs or {}
        target = args[0] if args else given.get("tensor")
        name = getattr(func, "__name__", "")
        if isinstance(target, nn.Parameter) and name.endswith("_") and not name.endswith(("__", "requires_grad_")):
            return target
        return func(*args, **given)


class Weightless(TorchFunctionMode):
    """Creates new parameters and buffers on the meta device: no memory, no time for initial values.

    `torch.device("meta")` would also catch the tensors with which RegNet computes its widths.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in (torch.empty, torch.zeros, torch.ones):
            return func(*args, **kwargs | {"device": "meta"})
        if func in _FILLING:
            tensor: Tensor = args[0] if args else kwargs["tensor"]
            if tensor.is_meta:  # torch would run its slow Python implementation, to no effect
                return tensor
        return func(*args, **kwargs)
