"""A forward pass on the meta device, by shapes alone: what a network gives is known, and nothing is computed."""

from __future__ import annotations

from itertools import chain
from typing import Any

import torch
from torch import nn
from torch.func import functional_call


@torch.no_grad()
def on_meta(module: nn.Module, count: int, side: int) -> Any:
    """Return what a network gives of so many squares of `side` pixels: tensors without numbers. It stays where it is.

    Layers that it has under several names are replaced under one: torch would leave the replacement in the others.
    """
    bare = {
        f"{path}.{name}".removeprefix("."): tensor.to("meta")
        for path, part in module.named_modules()
        for name, tensor in chain(part.named_parameters(recurse=False), part.named_buffers(recurse=False))
    }
    images = torch.empty(count, 3, side, side, device="meta")
    return functional_call(module, bare, (images,), tie_weights=False)
