"""Networks without values: their state on torch's meta device, which takes no time and no memory, whatever its size."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

_FILLING = {
    *(Tensor.normal_, Tensor.uniform_, nn.init.normal_, nn.init.uniform_),
    *(Tensor.erfinv_, Tensor.mul_, Tensor.add_, Tensor.clamp_),  # of which timm makes a normal distribution that is cut
}


def skeleton(build: Callable[[], nn.Module]) -> nn.Module:
    """Return the network before its state has values: on the meta device, unless it computes with more than its state.

    What else there is, such as positions that are computed, has its values.
    """
    with Weightless():
        module = build()
    if any(part._non_persistent_buffers_set for part in module.modules()):
        with _Unfilled():
            module = build()
    return module


def empty(module: nn.Module) -> None:
    """Move the state of a network to the meta device."""
    state = {id(tensor) for tensor in module.state_dict(keep_vars=True).values()}
    module._apply(lambda tensor: tensor.to("meta") if id(tensor) in state else tensor)


class _Unfilled(TorchFunctionMode):
    """New parameters get no values, which takes most of the time of building a large network."""

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
    """New parameters and buffers lie on the meta device: no memory, no time for initial values.

    `torch.device("meta")` would do the same to tensors that RegNet only computes its widths with.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in (torch.empty, torch.zeros, torch.ones):
            return func(*args, **kwargs | {"device": "meta"})
        if func in _FILLING:
            tensor: Tensor = args[0] if args else kwargs["tensor"]
            if tensor.is_meta:  # where torch goes through all of it in Python, to no effect
                return tensor
        return func(*args, **kwargs)
