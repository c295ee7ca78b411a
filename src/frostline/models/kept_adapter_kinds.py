"""Adapters that stay in the network: bottlenecks and visual prompts, as wrappers around a module's forward pass."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import skip_init

from frostline.core.config import AdapterConfig

_Forward = Callable[..., Any]


class KeptAdapter(nn.Module, ABC):
    """An adapter that wraps one module and cannot be merged."""

    @abstractmethod
    def around(self, forward: _Forward, *inputs: Any, **options: Any) -> Any:
        """Return the adapted output, given the module's original `forward` and its arguments."""

    @abstractmethod
    def start(self, module: nn.Module, draw: torch.Generator) -> None:
        """Initialise the parameters for the network `module`."""


class Bottleneck(KeptAdapter):
    """Adds a low-dimensional function of a module's output to that output (Houlsby et al. 2019, arXiv:1902.00751).

    With `parallel` it is a function of the module's input (AdaptFormer, Chen et al. 2022, arXiv:2205.13535). For
    feature maps `(B, C, H, W)` the projections are 1x1 convolutions (Rebuffi et al. 2018, arXiv:1803.10082).
    """

    def __init__(self, taken: int, given: int, how: AdapterConfig, *, maps: bool, like: Tensor) -> None:
        super().__init__()
        layer, width = nn.Conv2d if maps else nn.Linear, min(how.rank, given)
        options = {"device": like.device, "dtype": like.dtype, **({"kernel_size": 1} if maps else {})}
        self.down, self.up = (skip_init(layer, *sizes, **options) for sizes in ((taken, width), (width, given)))
        self.parallel, self.scale, self.dropout = how.parallel, how.scale, how.dropout

    def start(self, module: nn.Module, draw: torch.Generator) -> None:
        """Initialise the down projection as torch does a linear layer; all else, and so the addition, with 0."""
        for parameter in self.parameters():
            nn.init.zeros_(parameter)
        nn.init.kaiming_uniform_(self.down.get_parameter("weight"), a=math.sqrt(5), generator=draw)

    def around(self, forward: _Forward, *inputs: Any, **options: Any) -> Any:
        """Return the module's output plus the adapter's; with several outputs, the adapter adds to the first."""
        given = forward(*inputs, **options)
        first, others = (given[0], given[1:]) if isinstance(given, tuple) else (given, None)
        middle = F.dropout(F.relu(self.down(inputs[0] if self.parallel else first)), self.dropout, self.training)
        first = first + self.scale * self.up(middle)
        return first if others is None else (first, *others)


class Prompt(KeptAdapter):
    """Learned tokens before the image tokens of a block's input (Jia et al. 2022, arXiv:2203.12119).

    Attention knows the order of tokens only by position embeddings. Where these are added below the blocks, any place
    for the prompts is equivalent. Rotary embeddings skip the first tokens (class, registers), and the prompts too.
    """

    def __init__(self, how: AdapterConfig, length: int, *, enter: bool, leave: bool, like: Tensor) -> None:
        super().__init__()
        self.tokens = nn.Parameter(like.new_empty(how.tokens, length)) if enter else None
        self.count, self.leave, self.dropout = how.tokens, leave, how.dropout

    def start(self, module: nn.Module, draw: torch.Generator) -> None:
        """Initialise the tokens as the paper does: uniformly, with Xavier's bound for the patch embedding."""
        if self.tokens is not None:
            patches = next(part.weight for part in module.modules() if isinstance(part, nn.Conv2d | nn.Linear))
            bound = math.sqrt(6 / (len(patches) + patches[0].numel()))
            nn.init.uniform_(self.tokens, -bound, bound, generator=draw)

    def around(self, forward: _Forward, *inputs: Any, **options: Any) -> Any:
        """Return the block's output for `(B, N, C)` with the tokens prepended; removed again where they leave."""
        sequence, *others = inputs
        if self.tokens is not None:
            tokens = F.dropout(self.tokens, self.dropout, self.training)
            sequence = torch.cat([tokens.expand(sequence.shape[0], -1, -1), sequence], 1)
        given = forward(sequence, *others, **options)
        return given[:, self.count :] if self.leave else given
