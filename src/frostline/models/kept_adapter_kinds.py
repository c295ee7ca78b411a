"""The kinds of adapters that a network keeps: what each makes of what its module takes and gives, and how it begins."""

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
    """What lies around one module for good."""

    @abstractmethod
    def around(self, forward: _Forward, *inputs: Any, **options: Any) -> Any:
        """Return what the module, whose own forward pass is `forward`, gives now."""

    @abstractmethod
    def start(self, module: nn.Module, draw: torch.Generator) -> None:
        """Take new values, for the network `module`."""


class Bottleneck(KeptAdapter):
    """Adds to what a module gives a function of it through few dimensions (Houlsby et al. 2019, arXiv:1902.00751).

    `parallel` makes it one of what the module takes (AdaptFormer, Chen et al. 2022, arXiv:2205.13535). The projections
    of feature maps `(B, C, H, W)` are convolutions of 1x1 (Rebuffi et al. 2018, arXiv:1803.10082).
    """

    def __init__(self, taken: int, given: int, how: AdapterConfig, *, maps: bool, like: Tensor) -> None:
        super().__init__()
        layer, width = nn.Conv2d if maps else nn.Linear, min(how.rank, given)
        options = {"device": like.device, "dtype": like.dtype, **({"kernel_size": 1} if maps else {})}
        self.down, self.up = (skip_init(layer, *sizes, **options) for sizes in ((taken, width), (width, given)))
        self.parallel, self.scale, self.dropout = how.parallel, how.scale, how.dropout

    def start(self, module: nn.Module, draw: torch.Generator) -> None:
        """Draw what leads down as torch does the weight of a linear layer; all else is 0, and so is what is added."""
        for parameter in self.parameters():
            nn.init.zeros_(parameter)
        nn.init.kaiming_uniform_(self.down.get_parameter("weight"), a=math.sqrt(5), generator=draw)

    def around(self, forward: _Forward, *inputs: Any, **options: Any) -> Any:
        """Return what the module gives and what is added to it; of several outputs to the first."""
        given = forward(*inputs, **options)
        first, others = (given[0], given[1:]) if isinstance(given, tuple) else (given, None)
        middle = F.dropout(F.relu(self.down(inputs[0] if self.parallel else first)), self.dropout, self.training)
        first = first + self.scale * self.up(middle)
        return first if others is None else (first, *others)


class Prompt(KeptAdapter):
    """Tokens that learn, before those of the picture in what a block takes (Jia et al. 2022, arXiv:2203.12119).

    Attention gives a token no place but by its position. Where that is added below the blocks, before is as good as
    between; where it turns queries and keys, attention leaves out the first tokens, class and registers, and these too.
    """

    def __init__(self, how: AdapterConfig, length: int, *, enter: bool, leave: bool, like: Tensor) -> None:
        super().__init__()
        self.tokens = nn.Parameter(like.new_empty(how.tokens, length)) if enter else None
        self.count, self.leave, self.dropout = how.tokens, leave, how.dropout

    def start(self, module: nn.Module, draw: torch.Generator) -> None:
        """Draw the tokens as wide as the paper does: as Xavier's rule has it for the layer that embeds the patches."""
        if self.tokens is not None:
            patches = next(part.weight for part in module.modules() if isinstance(part, nn.Conv2d | nn.Linear))
            bound = math.sqrt(6 / (len(patches) + patches[0].numel()))
            nn.init.uniform_(self.tokens, -bound, bound, generator=draw)

    def around(self, forward: _Forward, *inputs: Any, **options: Any) -> Any:
        """Return what the block gives for `(B, N, C)` and the tokens; without these where they leave."""
        sequence, *others = inputs
        if self.tokens is not None:
            tokens = F.dropout(self.tokens, self.dropout, self.training)
            sequence = torch.cat([tokens.expand(sequence.shape[0], -1, -1), sequence], 1)
        given = forward(sequence, *others, **options)
        return given[:, self.count :] if self.leave else given
