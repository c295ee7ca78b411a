"""What a network gives for images of a size, by shape alone: on the meta device, where nothing is computed."""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain
from typing import Any

import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode


def walk(module: nn.Module, count: int, side: int) -> Any:
    """Return what `module` gives for `count` square images, its tensors without numbers; hooks are called.

    Raises what the forward pass raises for images of this size. The module itself stays as it is: layers that it has
    under several names are replaced under one, as torch would leave the replacement in the others.
    """
    bare = {
        f"{path}.{name}".removeprefix("."): tensor.to("meta")
        for path, part in module.named_modules()
        for name, tensor in chain(part.named_parameters(recurse=False), part.named_buffers(recurse=False))
    }
    images = torch.empty(count, 3, side, side, device="meta")
    with torch.no_grad(), _Norms():
        return functional_call(module, bare, (images,), tie_weights=False)


class _Norms(TorchFunctionMode):
    """What normalises gives what is as large as its input; torch finds that out in Python, in most of the time of all.

    What does not fit its input is left to torch, which says so.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is F.batch_norm and args[1] is not None:
            several = args[0].numel() > args[0].shape[1]  # values per channel: of a single one none can learn
            fits = several and args[1].shape == args[0].shape[1:2]
        else:
            fits = func is F.layer_norm and args[0].shape[-len(args[1]) :] == tuple(args[1])
        return args[0] if fits else func(*args, **kwargs or {})
