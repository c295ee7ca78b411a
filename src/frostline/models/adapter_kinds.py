"""The kinds of adapters: what each makes of the weight and the bias of its layer, and how it begins."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from frostline.core.config import AdapterConfig

_LEAST = 1e-12  # of a length that is divided by, as in torch's `normalize`


class Adapter(nn.Module):
    """What changes the weight and the bias of one layer."""

    def weight(self, frozen: Tensor) -> Tensor:
        """Return the weight of the layer, whose own is `frozen`, of the same shape `(out, ...)`."""
        return frozen

    def bias(self, frozen: Tensor | None) -> Tensor | None:
        """Return the bias `(out,)` of the layer, whose own is `frozen`."""
        return frozen

    def start(self, frozen: Tensor, generator: torch.Generator) -> None:
        """Take new values, for a layer whose weight is `frozen`, with which it does what it did."""

    def exported(self) -> dict[str, Tensor]:
        """Return the parameters as other programs name and shape them."""
        return {name: parameter.detach() for name, parameter in self.named_parameters()}


class LoRA(Adapter):
    """Adds a product of two thin matrices (Hu et al. 2021, arXiv:2106.09685).

    A convolution is taken as the matrix of its output channels and all of its window, `(out, in * height * width)`.
    """

    def __init__(self, frozen: Tensor, how: AdapterConfig) -> None:
        super().__init__()
        out, inner = len(frozen), frozen[0].numel()
        rank = min(how.rank, out, inner)
        self.lora_A = nn.Parameter(frozen.new_empty(rank, inner))
        self.lora_B = nn.Parameter(frozen.new_empty(out, rank))
        self.window, self.scale, self.dropout = frozen.shape[2:], how.alpha / how.rank, how.dropout

    def start(self, frozen: Tensor, generator: torch.Generator) -> None:
        """Draw A as torch does the weight of a linear layer; B is 0."""
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5), generator=generator)
        nn.init.zeros_(self.lora_B)

    def exported(self) -> dict[str, Tensor]:
        """Return A `(rank, in, ...)` and B `(out, rank, ...)`, of a convolution with its window and one of a pixel."""
        window = self.window
        first, second = self.lora_A.detach(), self.lora_B.detach()
        return {
            "lora_A.weight": first.view(len(first), -1, *window),
            "lora_B.weight": second.view(*second.shape, *[1] * len(window)),
        }

    def weight(self, frozen: Tensor) -> Tensor:
        """Return the sum of the weight and the product."""
        return frozen + self.scale * (self.lora_B @ self.lora_A).view_as(frozen)

    def output(self, inputs: Tensor) -> Tensor:
        """Return what a linear layer's output gains for `inputs` `(..., in)`, without the product of A and B."""
        dropped = F.dropout(inputs, self.dropout, self.training)
        return self.scale * F.linear(F.linear(dropped, self.lora_A), self.lora_B)


class DoRA(LoRA):
    """LoRA for the direction of each output's weights, and a length of its own (Liu et al. 2024, arXiv:2402.09353)."""

    def __init__(self, frozen: Tensor, how: AdapterConfig) -> None:
        super().__init__(frozen, how)
        self.magnitude = nn.Parameter(frozen.new_empty(len(frozen)))

    def start(self, frozen: Tensor, generator: torch.Generator) -> None:
        """Let the lengths be those of the frozen weights."""
        super().start(frozen, generator)
        with torch.no_grad():
            self.magnitude.copy_(_lengths(frozen))

    def exported(self) -> dict[str, Tensor]:
        """Return what LoRA has, and the lengths `(out,)`."""
        lengths = self.magnitude.detach()
        return {**super().exported(), "lora_magnitude_vector": lengths.view(1, -1, 1, 1) if self.window else lengths}

    def weight(self, frozen: Tensor) -> Tensor:
        """Return the direction times the length; the gradient takes the norm as given (section 4.3 of the paper)."""
        direction = super().weight(frozen)
        lengths = _lengths(direction.detach()).clamp(min=_LEAST)  # of a dead filter 0
        return direction * _along(self.magnitude / lengths, direction)


class IA3(Adapter):
    """Scales keys, values and what enters a block's second linear layer (Liu et al. 2022, arXiv:2205.05638).

    Of a layer that makes queries, keys and values at once the queries stay as they are.
    """

    def __init__(self, frozen: Tensor, *, of_inputs: bool, queries: int) -> None:
        super().__init__()
        self.window, self.of_inputs, self.queries = frozen.shape[2:], of_inputs, queries
        self.scale = nn.Parameter(frozen.new_empty(frozen.shape[1] if of_inputs else len(frozen) - queries))

    def start(self, frozen: Tensor, generator: torch.Generator) -> None:
        """Scale by 1."""
        nn.init.ones_(self.scale)

    def exported(self) -> dict[str, Tensor]:
        """Return the scale of outputs `(out, 1)`, of inputs `(1, in)`, or of channels `(1, channels, 1, 1)`."""
        scale = (self.scale if self.of_inputs else self._of_outputs()).detach()
        return {"ia3_l": scale.view(1, -1, 1, 1) if self.window else scale[None] if self.of_inputs else scale[:, None]}

    def weight(self, frozen: Tensor) -> Tensor:
        """Return the weight with its rows scaled, or its columns."""
        if self.of_inputs:
            return frozen * self.scale.view(1, -1, *[1] * (frozen.dim() - 2))
        return frozen * _along(self._of_outputs(), frozen)

    def bias(self, frozen: Tensor | None) -> Tensor | None:
        """Return the bias scaled as the rows are."""
        return frozen if frozen is None or self.of_inputs else frozen * self._of_outputs()

    def _of_outputs(self) -> Tensor:
        return F.pad(self.scale, (self.queries, 0), value=1.0)


class SSF(Adapter):
    """Scales and shifts what a layer puts out (Lian et al. 2022, arXiv:2210.08823), where it has a bias to shift."""

    def __init__(self, frozen: Tensor) -> None:
        super().__init__()
        self.scale, self.shift = (nn.Parameter(frozen.new_empty(len(frozen))) for _ in range(2))

    def start(self, frozen: Tensor, generator: torch.Generator) -> None:
        """Scale by 1 and shift by 0: the paper's noise around them would change what the network knows."""
        nn.init.ones_(self.scale)
        nn.init.zeros_(self.shift)

    def weight(self, frozen: Tensor) -> Tensor:
        """Return the weight, its rows scaled."""
        return frozen * _along(self.scale, frozen)

    def bias(self, frozen: Tensor | None) -> Tensor | None:
        """Return the bias, scaled and shifted."""
        assert frozen is not None
        return frozen * self.scale + self.shift


def _lengths(weight: Tensor) -> Tensor:
    """Return the norm `(out,)` of the weights of every output."""
    return torch.linalg.vector_norm(weight.flatten(1), dim=1)


def _along(scale: Tensor, weight: Tensor) -> Tensor:
    """Return a scale `(out,)` as it multiplies a weight `(out, ...)`."""
    return scale.view(-1, *[1] * (weight.dim() - 1))
