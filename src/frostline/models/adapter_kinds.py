"""Adapters that can be merged: LoRA, DoRA, IA3 and SSF, as functions of a layer's frozen weight and bias."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from frostline.core.config import AdapterConfig

_LEAST = 1e-12  # lower bound of lengths in a denominator, as in torch's `normalize`


class Adapter(nn.Module):
    """An adapter that changes the weight and the bias of one layer."""

    def weight(self, frozen: Tensor) -> Tensor:
        """Return the adapted weight `(out, ...)`, given the layer's `frozen` one."""
        return frozen

    def bias(self, frozen: Tensor | None) -> Tensor | None:
        """Return the adapted bias `(out,)`, given the layer's `frozen` one."""
        return frozen

    def start(self, frozen: Tensor, generator: torch.Generator) -> None:
        """Initialise the parameters so that the layer, with the weight `frozen`, computes the same as before."""

    def exported(self) -> dict[str, Tensor]:
        """Return the parameters with the names and shapes that PEFT uses."""
        return {name: parameter.detach() for name, parameter in self.named_parameters()}


class LoRA(Adapter):
    """Low-rank adaptation: adds a product of two thin matrices (Hu et al. 2021, arXiv:2106.09685).

    The weight of a convolution is treated as a matrix `(out, in * height * width)`.
    """

    def __init__(self, frozen: Tensor, how: AdapterConfig) -> None:
        super().__init__()
        out, inner = len(frozen), frozen[0].numel()
        rank = min(how.rank, out, inner)
        self.lora_A = nn.Parameter(frozen.new_empty(rank, inner))
        self.lora_B = nn.Parameter(frozen.new_empty(out, rank))
        self.window, self.scale, self.dropout = frozen.shape[2:], how.alpha / how.rank, how.dropout

    def start(self, frozen: Tensor, generator: torch.Generator) -> None:
        """Initialise A as torch initialises a linear layer, and B with 0."""
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5), generator=generator)
        nn.init.zeros_(self.lora_B)

    def exported(self) -> dict[str, Tensor]:
        """Return A `(rank, in, ...)` and B `(out, rank, ...)`; for a convolution, A has its kernel size and B 1x1."""
        window = self.window
        first, second = self.lora_A.detach(), self.lora_B.detach()
        return {
            "lora_A.weight": first.view(len(first), -1, *window),
            "lora_B.weight": second.view(*second.shape, *[1] * len(window)),
        }

    def weight(self, frozen: Tensor) -> Tensor:
        """Return the frozen weight plus the scaled product B A."""
        return frozen + self.scale * (self.lora_B @ self.lora_A).view_as(frozen)

    def output(self, inputs: Tensor) -> Tensor:
        """Return the addition to a linear layer's output for `inputs` `(..., in)`, without forming the product B A."""
        dropped = F.dropout(inputs, self.dropout, self.training)
        return self.scale * F.linear(F.linear(dropped, self.lora_A), self.lora_B)


class DoRA(LoRA):
    """LoRA for the direction of each output's weights, plus a learned length (Liu et al. 2024, arXiv:2402.09353)."""

    def __init__(self, frozen: Tensor, how: AdapterConfig) -> None:
        super().__init__(frozen, how)
        self.magnitude = nn.Parameter(frozen.new_empty(len(frozen)))

    def start(self, frozen: Tensor, generator: torch.Generator) -> None:
        """Initialise the lengths with those of the frozen weights."""
        super().start(frozen, generator)
        with torch.no_grad():
            self.magnitude.copy_(_lengths(frozen))

    def exported(self) -> dict[str, Tensor]:
        """Return the tensors of LoRA, and the lengths `(out,)`."""
        lengths = self.magnitude.detach()
        return {**super().exported(), "lora_magnitude_vector": lengths.view(1, -1, 1, 1) if self.window else lengths}

    def weight(self, frozen: Tensor) -> Tensor:
        """Return direction times length; the norm is a constant in the gradient (section 4.3 of the paper)."""
        direction = super().weight(frozen)
        lengths = _lengths(direction.detach()).clamp(min=_LEAST)  # 0 for a dead filter
        return direction * _along(self.magnitude / lengths, direction)


class IA3(Adapter):
    """Scales keys, values and the inputs of a block's second linear layer (Liu et al. 2022, arXiv:2205.05638).

    In a layer that computes queries, keys and values together, queries are not scaled.
    """

    def __init__(self, frozen: Tensor, *, of_inputs: bool, queries: int) -> None:
        super().__init__()
        self.window, self.of_inputs, self.queries = frozen.shape[2:], of_inputs, queries
        self.scale = nn.Parameter(frozen.new_empty(frozen.shape[1] if of_inputs else len(frozen) - queries))

    def start(self, frozen: Tensor, generator: torch.Generator) -> None:
        """Initialise the scales with 1."""
        nn.init.ones_(self.scale)

    def exported(self) -> dict[str, Tensor]:
        """Return the scale of outputs `(out, 1)`, inputs `(1, in)` or channels `(1, channels, 1, 1)`."""
        scale = (self.scale if self.of_inputs else self._of_outputs()).detach()
        return {"ia3_l": scale.view(1, -1, 1, 1) if self.window else scale[None] if self.of_inputs else scale[:, None]}

    def weight(self, frozen: Tensor) -> Tensor:
        """Return the weight with scaled rows, or columns if inputs are scaled."""
        if self.of_inputs:
            return frozen * self.scale.view(1, -1, *[1] * (frozen.dim() - 2))
        return frozen * _along(self._of_outputs(), frozen)

    def bias(self, frozen: Tensor | None) -> Tensor | None:
        """Return the bias, scaled like the rows."""
        return frozen if frozen is None or self.of_inputs else frozen * self._of_outputs()

    def _of_outputs(self) -> Tensor:
        return F.pad(self.scale, (self.queries, 0), value=1.0)


class SSF(Adapter):
    """Scales and shifts the output of a layer with a bias (Lian et al. 2022, arXiv:2210.08823)."""

    def __init__(self, frozen: Tensor) -> None:
        super().__init__()
        self.scale, self.shift = (nn.Parameter(frozen.new_empty(len(frozen))) for _ in range(2))

    def start(self, frozen: Tensor, generator: torch.Generator) -> None:
        """Initialise scales with 1 and shifts with 0: the paper's noise would change the pretrained network."""
        nn.init.ones_(self.scale)
        nn.init.zeros_(self.shift)

    def weight(self, frozen: Tensor) -> Tensor:
        """Return the weight with scaled rows."""
        return frozen * _along(self.scale, frozen)

    def bias(self, frozen: Tensor | None) -> Tensor | None:
        """Return the bias, scaled and shifted."""
        assert frozen is not None
        return frozen * self.scale + self.shift


def _lengths(weight: Tensor) -> Tensor:
    """Return the norm `(out,)` of each output's weights."""
    return torch.linalg.vector_norm(weight.flatten(1), dim=1)


def _along(scale: Tensor, weight: Tensor) -> Tensor:
    """Return a scale `(out,)`, reshaped to multiply a weight `(out, ...)`."""
    return scale.view(-1, *[1] * (weight.dim() - 1))
