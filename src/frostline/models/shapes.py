"""Infer the shapes of a network's outputs for a given image size, on the meta device, where nothing is computed."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode


def walk(module: nn.Module, count: int, side: int) -> Any:
    """Return the output of `module` for `count` square images, with tensors on the meta device; hooks are called.

    Raises what the forward pass raises for images of this size. The module does not change: layers with several names
    are replaced under one of them only, since torch would leave the replacement under the others.
    """
    bare = {
        f"{path}.{name}".removeprefix("."): tensor.to("meta")
        for path, part in module.named_modules()
        for name, tensor in chain(part.named_parameters(recurse=False), part.named_buffers(recurse=False))
    }
    images = torch.empty(count, 3, side, side, device="meta")
    with torch.no_grad(), _Norms():
        return functional_call(module, bare, (images,), tie_weights=False)


def check(module: nn.Module, side: int) -> None:
    """Raise what the forward pass of `module` raises for square images of `side` pixels.

    An index out of range is found if it is computed from `torch.arange` alone, e.g. a relative position.
    """
    with suppress(RuntimeError), _Positions():  # raised where positions meet a tensor without values
        walk(module, 1, side)
        return
    walk(module, 1, side)


class _Norms(TorchFunctionMode):
    """Returns the input of norm layers as their output: torch's shape inference in Python would take most of the time.

    A norm layer that does not fit its input is left to torch, which raises.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is F.batch_norm and args[1] is not None:
            several = args[0].numel() > args[0].shape[1]  # values per channel: torch refuses a single one in training
            fits = several and args[1].shape == args[0].shape[1:2]
        else:
            fits = func is F.layer_norm and args[0].shape[-len(args[1]) :] == tuple(args[1])
        return args[0] if fits else func(*args, **kwargs or {})


class _Positions(TorchFunctionMode):
    """Computes positions on the CPU, and verifies them where they are indices into a tensor without values."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is torch.arange:
            kwargs = kwargs | {"device": "cpu"}
        elif func is Tensor.__getitem__ and args[0].is_meta:
            torch.tensor(0.0).expand(args[0].shape)[args[1]]
        return func(*args, **kwargs)
